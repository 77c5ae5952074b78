"""A VAE of videos, turned into one of pictures, decodes what it decoded as a video of one frame."""

import copy

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLQwenImage

from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.vae.banded_decoder import decode_in_bands
from batchgen.engine.vae.one_frame import one_frame
from tests.engine.vae.band_ranks import make_latents, narrow
from tests.support.video_vae import make_video_vae

LATENTS = make_latents(2, 9, 6)
# fp32, for pixels in [-1, 1]: sums are ordered differently.
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def stock() -> AutoencoderKLQwenImage:
    torch.manual_seed(0)
    return make_video_vae()


@pytest.fixture(scope="module")
def pictures(stock: AutoencoderKLQwenImage) -> AutoencoderKL:
    return one_frame(copy.deepcopy(stock))


@pytest.fixture(scope="module")
def expected(stock: AutoencoderKLQwenImage) -> torch.Tensor:
    with torch.inference_mode():
        video = stock.decode(LATENTS.unsqueeze(2), return_dict=False)[0]
    assert video.shape == (2, 3, 1, 72, 48)
    inside = video.abs() < 1
    assert inside.float().mean() > 0.5, "a picture that is cut off everywhere would prove nothing"
    return video[:, :, 0]


def furthest(one: torch.Tensor, other: torch.Tensor) -> float:
    """As far as a pixel of one is from the other; the video's are cut at -1 and 1."""
    return float((one.float().clamp(-1, 1) - other).abs().max())


@torch.inference_mode()
def test_it_decodes_the_same_picture(pictures: AutoencoderKL, expected: torch.Tensor) -> None:
    whole = pictures.decode(LATENTS).sample
    assert furthest(whole, expected) <= TOLERANCE
    assert furthest(pictures.decode(LATENTS[:1]).sample, expected[:1]) <= TOLERANCE


@pytest.mark.parametrize("bands", [2, 5, 9])
def test_bands_are_the_same_picture(
    pictures: AutoencoderKL, expected: torch.Tensor, bands: int
) -> None:
    assert furthest(decode_in_bands(pictures, LATENTS, Ranks(), bands), expected) <= TOLERANCE


@pytest.mark.slow
@torch.inference_mode()
def test_channels_last_and_traced_it_is_the_same_picture(
    pictures: AutoencoderKL, expected: torch.Tensor
) -> None:
    """Traced as a whole: nothing in it keeps a compiler from it."""
    vae = copy.deepcopy(pictures).to(memory_format=torch.channels_last)
    traced = torch.compile(lambda z: vae.decode(z).sample, backend="eager", fullgraph=True)
    found = traced(LATENTS.contiguous(memory_format=torch.channels_last))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert furthest(found, expected) <= TOLERANCE


@torch.inference_mode()
def test_in_bf16_it_is_no_further_from_fp32_than_the_video_is(
    stock: AutoencoderKLQwenImage, pictures: AutoencoderKL, expected: torch.Tensor
) -> None:
    half, latents = torch.bfloat16, LATENTS.bfloat16()
    theirs = copy.deepcopy(stock).to(half).decode(latents.unsqueeze(2)).sample[:, :, 0]
    ours = copy.deepcopy(pictures).to(half).decode(latents).sample
    own, stocks = ((x.float().clamp(-1, 1) - expected).square().mean() for x in (ours, theirs))
    assert own <= 1.1 * stocks


def test_it_holds_a_third_of_the_decoder_and_nothing_that_encodes(
    stock: AutoencoderKLQwenImage, pictures: AutoencoderKL
) -> None:
    assert not hasattr(pictures, "encoder")
    numbers = [sum(x.numel() for x in vae.decoder.parameters()) for vae in (stock, pictures)]
    assert numbers[1] < 0.45 * numbers[0]
    assert pictures.config == stock.config


def test_a_vae_of_pictures_stays_as_it_is() -> None:
    vae = narrow()
    assert one_frame(vae) is vae
    assert type(vae) is AutoencoderKL
    assert hasattr(vae, "encoder")
