"""What a picture costs, in seconds and bytes: from the model's arithmetic and a typical device.

The estimate sizes the shards and is shown to people. Nothing that is computed depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchgen.model import TINY, Checkpoint
from batchgen.planning.plan import Shape
from batchgen.settings import Job

# 2,080 TFLOP in 5.58 s: FLUX.1-dev, 1024 px, 28 steps, diffusers without compilation, on an H200.
GPU_FLOPS = 3.7e14
# The embedded model on one core of a server with AVX-512.
CPU_FLOPS = 5e10
# Drawing and encoding a test card.
CARD_SECONDS = 0.004
# Photographs, at quality 95 where there is a quality.
BYTES_PER_PIXEL = {"jpg": 0.7, "png": 1.8, "webp": 0.4, "lossless": 1.3}
# Tar headers and padding, prompt, JSON.
SAMPLE_OVERHEAD = 4096


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one picture costs on average."""

    seconds: float
    bytes: float
    # The device that was assumed, for people.
    speed: str


def estimate_cost(
    shapes: Sequence[Shape], job: Job, checkpoint: Checkpoint | None, contrasted: float = 1.0
) -> Estimate:
    """What a picture of this run costs on average.

    :param shapes: of all pictures that are planned.
    :param checkpoint: None for test cards.
    :param contrasted: share of the rows that have classifier-free guidance, if any may have it.
    """
    pictures = sum(shape.pictures for shape in shapes)
    lossless = job.output.format == "webp" and job.output.lossless
    per_pixel = BYTES_PER_PIXEL["lossless" if lossless else job.output.format]
    total = sum(s.pictures * (s.width * s.height * per_pixel + SAMPLE_OVERHEAD) for s in shapes)
    size = total / pictures
    if checkpoint is None:
        seconds = job.pattern.delay_s / job.engine.batch_size + CARD_SECONDS
        return Estimate(seconds, size, "test cards")
    tokens = job.model.max_sequence_length
    flops = sum(
        s.pictures * checkpoint.flops(s.width, s.height, s.steps, tokens, s.negative)
        for s in shapes
    )
    flops /= pictures
    if checkpoint.contrasts:  # they were all counted twice
        flops *= (1 + contrasted) / 2
    device = job.engine.device
    if device == "cuda" or (device == "auto" and checkpoint.folder != TINY):
        speed = f"a GPU that does {GPU_FLOPS / 1e12:.0f} TFLOP/s, as an H200 does on FLUX.1"
        return Estimate(flops / GPU_FLOPS, size, speed)
    speed = f"a CPU core that does {CPU_FLOPS / 1e9:.0f} GFLOP/s"
    return Estimate(flops / CPU_FLOPS, size, speed)
