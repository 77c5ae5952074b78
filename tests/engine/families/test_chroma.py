"""What Chroma's text attends to: the prompt's tokens, and one of padding."""

from pathlib import Path

import pytest
import torch

from batchgen.engine.build import build_engine
from batchgen.engine.torch_engine import TorchEngine
from batchgen.model.checkpoint import resolve
from tests.support.every_family import FAMILIES
from tests.support.stock import make_job, make_picture

CHROMA = FAMILIES["chroma"]
PICTURE = make_picture(steps=3, guidance=3.0, negative_prompt="blue")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return CHROMA.save(tmp_path_factory.mktemp("chroma") / "model")


def open_engine(folder: Path, text_tokens: int) -> TorchEngine:
    job = make_job(folder, max_sequence_length=text_tokens)
    return build_engine(job, resolve(job.model))


def test_a_picture_does_not_depend_on_how_far_prompts_are_padded(folder: Path) -> None:
    short, long = (open_engine(folder, length).denoise([PICTURE]).latents for length in (12, 60))
    assert (short - long).abs().max() <= 1e-5 * long.abs().max()


def test_a_row_has_its_own_tokens_and_one_of_padding_if_there_is_any(folder: Path) -> None:
    family = open_engine(folder, 8).family
    prompts = [" ".join(["a"] * words) for words in (0, 2, 6, 7, 9)]
    with torch.inference_mode():
        # The end token is its own too.
        assert family.encode(prompts).lengths == (2, 4, 8, 8, 8)


def test_stock_called_with_prompts_attends_to_padding(folder: Path) -> None:
    """The docstring of the family says so: it is to be changed when this fails.

    Masks of 0 and 1, as numbers, are added to scores.
    """
    stock = CHROMA.open(folder)
    made = [
        stock(
            prompt=[PICTURE.prompt],
            negative_prompt=[PICTURE.negative_prompt],
            guidance_scale=PICTURE.guidance,
            width=PICTURE.width,
            height=PICTURE.height,
            num_inference_steps=PICTURE.steps,
            generator=[torch.Generator().manual_seed(PICTURE.seed)],
            max_sequence_length=length,
            output_type="latent",
        ).images
        for length in (12, 60)
    ]
    assert (made[0] - made[1]).abs().max() > 0.01 * made[0].abs().max()
    truth = CHROMA.stock(stock, PICTURE)
    assert (made[0] - truth).abs().max() > 0.01 * truth.abs().max()
