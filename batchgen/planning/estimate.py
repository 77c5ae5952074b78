"""batchgen.planning.estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchgen.model import TINY, Checkpoint
from batchgen.planning.plan import Shape
from batchgen.settings import Job

GPU_FLOPS = 3.7e14  # 2,080 TFLOP in 5.58 s: FLUX.1-dev, 1024 px, 28 steps, diffusers without compilation, H200
CPU_FLOPS = 5e10  # the embedded model on one core of a server with AVX-512
CARD_SECONDS = 0.004  # drawing and encoding a test card
BYTES_PER_PIXEL = {
    "jpg": 0.7,
    "png": 1.8,
    "webp": 0.4,
    "lossless": 1.3,
}  # photographs at quality 95
SAMPLE_OVERHEAD = 4096  # tar headers and padding, prompt, JSON


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one picture costs on average. The assumption is for people to judge it by."""

    seconds: float
    bytes: float
    speed: str


def estimate_cost(shapes: Sequence[Shape], job: Job, checkpoint: Checkpoint | None) -> Estimate:
    """What a picture of this run costs, from the model's arithmetic and a typical device; to be judged, not believed."""
    pictures = sum(shape.pictures for shape in shapes)
    per_pixel = BYTES_PER_PIXEL[
        "lossless" if job.output.format == "webp" and job.output.lossless else job.output.format
    ]
    size = sum(
        shape.pictures * (shape.width * shape.height * per_pixel + SAMPLE_OVERHEAD)
        for shape in shapes
    )
    if checkpoint is None:
        return Estimate(
            job.pattern.delay_s / job.engine.batch_size + CARD_SECONDS,
            size / pictures,
            "test cards",
        )
    tokens = job.model.max_sequence_length
    flops = sum(
        s.pictures * checkpoint.flops(s.width, s.height, s.steps, tokens, s.negative)
        for s in shapes
    )
    if job.engine.device == "cuda" or (job.engine.device == "auto" and checkpoint.folder != TINY):
        return Estimate(
            flops / pictures / GPU_FLOPS,
            size / pictures,
            f"a GPU that does {GPU_FLOPS / 1e12:.0f} TFLOP/s, as an H200 does on FLUX.1",
        )
    return Estimate(
        flops / pictures / CPU_FLOPS,
        size / pictures,
        f"a CPU core that does {CPU_FLOPS / 1e9:.0f} GFLOP/s",
    )
