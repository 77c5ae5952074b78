"""Stated noise levels mean what stock diffusers means by them.

`sampling.sigmas` is a pipeline's argument `sigmas`, and `sampling.shift` a scheduler of that shift.
Tolerance: fp32 latents within 1e-5, as in test_parity.py.
"""

from typing import Any

import diffusers
import pytest
import torch

from batchgen.engine.build import build_engine
from batchgen.engine.torch_engine import TorchEngine
from batchgen.manifest import Picture
from batchgen.model import TINY
from batchgen.model.checkpoint import resolve
from batchgen.settings.job import parse_job
from tests.support.sd3_folder import save_sd3
from tests.support.stock import TEXT_TOKENS, make_picture, psnr
from tests.support.tiny_klein import save_klein

TOLERANCE = 1e-5
# Some of those published with fal/FLUX.2-dev-Turbo.
TURBO = [1.0, 0.4374, 0.1893, 0.00031]
STATED = {
    "shift": {"shift": 3.0},
    "sigmas": {"sigmas": TURBO},
    "sigmas, as they are": {"sigmas": TURBO, "shift": 1.0},
    "sigmas from below 1": {"sigmas": [level * 0.9 for level in TURBO]},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "flux": str(TINY),
        "sd3": str(save_sd3(folder / "sd3")),
        "klein": str(save_klein(folder / "klein", distilled=True)),
    }


def open_engine(
    path: str, cache: dict[str, object] | None = None, **sampling: object
) -> TorchEngine:
    job = parse_job(
        {
            "model": {"path": path, "max_sequence_length": TEXT_TOKENS},
            "engine": {"device": "cpu"},
            "sampling": {"steps": len(TURBO), **sampling},
            "cache": cache or {},
        },
        "a test",
    )
    return build_engine(job, resolve(job.model))


@pytest.fixture(scope="module")
def pipelines(folders: dict[str, str]) -> dict[str, Any]:
    load = diffusers.DiffusionPipeline.from_pretrained
    return {name: load(path, dtype=torch.float32) for name, path in folders.items()}


def stock(pipeline: Any, picture: Picture, **sampling: Any) -> torch.Tensor:
    """What a user of the pipeline writes."""
    pipeline.set_progress_bar_config(disable=True)
    if "shift" in sampling:
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=sampling["shift"])
        pipeline = type(pipeline)(**pipeline.components | {"scheduler": scheduler})
    stated = {"sigmas": sampling["sigmas"]} if "sigmas" in sampling else {}
    latents: torch.Tensor = pipeline(
        prompt=[picture.prompt],
        guidance_scale=picture.guidance,
        width=picture.width,
        height=picture.height,
        num_inference_steps=picture.steps,
        generator=[torch.Generator().manual_seed(picture.seed)],
        max_sequence_length=TEXT_TOKENS,
        output_type="latent",
        **stated,
    ).images
    return latents


@pytest.mark.parametrize(
    ("family", "stated"),
    [
        *(("flux", stated) for stated in STATED),
        *((family, stated) for family in ("sd3", "klein") for stated in ("shift", "sigmas")),
    ],
)
def test_stated_levels_equal_stock(
    folders: dict[str, str], pipelines: dict[str, Any], family: str, stated: str
) -> None:
    guidance = 3.5 if family != "klein" else 0.0
    picture = make_picture(1, steps=len(TURBO), guidance=guidance, width=64, height=64)
    engine = open_engine(folders[family], **STATED[stated])
    theirs = stock(pipelines[family], picture, **STATED[stated])
    ours = engine.denoise([picture]).latents
    if family == "sd3":
        theirs = engine.family.pack(theirs)
    if family == "klein":
        ours = engine.family.unpack(ours, picture.width, picture.height)
    assert (theirs - ours).abs().max() <= TOLERANCE * max(1.0, theirs.abs().max().item())


def test_stated_levels_are_those_of_the_loop(folders: dict[str, str]) -> None:
    """Exactly as written where the shift is 1, and then 0."""
    family = open_engine(folders["sd3"], sigmas=TURBO, shift=1.0).family
    assert family.schedule(len(TURBO), 128, 128).sigmas.tolist() == pytest.approx([*TURBO, 0.0])
    shifted = open_engine(folders["flux"], shift=3.0).family
    levels = [1 - step / 4 for step in range(4)]
    for size in (128, 192):  # the embedded model's own shift depends on the size
        sigmas = shifted.schedule(4, size, 128).sigmas.tolist()
        assert sigmas == pytest.approx([*(3 * s / (1 + 2 * s) for s in levels), 0.0])


def test_an_engine_with_stated_levels_rehearses_a_step(folders: dict[str, str]) -> None:
    """What compiles the blocks takes one step, whatever the number of stated levels."""
    engine = open_engine(folders["flux"], sigmas=TURBO)
    engine.rehearse((128, 128), 2)


def test_a_cache_predicts_along_stated_levels(folders: dict[str, str]) -> None:
    """Predictions over other levels than the loop's would miss by far."""
    levels = [1 - step / 20 for step in range(16)]
    stated = {"steps": 16, "sigmas": levels, "shift": 1.5}
    picture = make_picture(1, steps=16, width=64, height=64)
    plain = open_engine(folders["flux"], **stated).denoise([picture])
    cached = open_engine(folders["flux"], {"policy": "multistep"}, **stated).denoise([picture])
    assert 2 <= cached.traces[0].skipped.count("1") <= 14
    assert 40 <= psnr(plain.latents, cached.latents) <= 100
