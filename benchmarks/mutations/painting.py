"""One small picture by the engine of an accepted job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from batchgen.manifest import Picture

SIDE_PX = 32
# Settings of a job whose pictures take a fraction of a second.
SETTINGS = (
    *(f"sampling.width={SIDE_PX}", f"sampling.height={SIDE_PX}", "sampling.steps=1"),
    *("engine.device=cpu", "engine.batch_size=2", "model.max_sequence_length=32"),
)
_PICTURE = Picture(
    key=0,
    row=0,
    image=0,
    id="",
    prompt="a red circle",
    negative_prompt="",
    seed=1,
    width=SIDE_PX,
    height=SIDE_PX,
    steps=1,
    guidance=3.5,
    true_cfg=1.0,
    extra="{}",
)


def paint(settings: Sequence[str]) -> tuple[Any, str]:
    """Load the model of a job, and paint one picture.

    :return: the picture's latents, and "" or what would end every worker.
    """
    from batchgen.engine import Workload, open_engine
    from batchgen.planning import locate_model
    from batchgen.settings import load_job

    job, checkpoint = locate_model(load_job(None, list(settings)))
    try:
        engine = open_engine(job, checkpoint, Workload(((SIDE_PX, SIDE_PX),), 2, False))
        denoised = engine.denoise([_PICTURE])
        pixels, _ = engine.decode(denoised)
        engine.close()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is met too late
        return None, f"planned, and a worker ends: {type(error).__name__}: {error}"
    right = pixels.shape == (1, SIDE_PX, SIDE_PX, 3)
    return denoised.latents, "" if right else f"planned, and the picture is {pixels.shape}"
