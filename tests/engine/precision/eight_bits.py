"""Jobs of the embedded model with 8-bit linears, and their engines."""

from pathlib import Path
from typing import Any

from batchgen.engine.build import build_engine
from batchgen.engine.device import choose_device
from batchgen.engine.families import load_family
from batchgen.engine.precision.quantized_weights import QuantizedWeights, choose_weights
from batchgen.engine.torch_engine import TorchEngine
from batchgen.model.checkpoint import Checkpoint, resolve
from batchgen.settings.job import Job, parse_job
from tests.support.stock import TEXT_TOKENS


def make_job(folder: Path | str, linear: str = "fp8", **model: Any) -> Job:
    """:param folder: for quantized weights; "" for none."""
    return parse_job(
        {
            "model": {"path": "tiny", "max_sequence_length": TEXT_TOKENS, **model},
            "engine": {"device": "cpu"},
            "precision": {"linear": linear},
            "run": {"quantized_weights": str(folder)},
        },
        "a test",
    )


def weights_of(job: Job, checkpoint: Checkpoint | None = None) -> QuantizedWeights:
    return choose_weights(
        job,
        job.precision.linear,
        checkpoint or resolve(job.model),
        choose_device(job.engine, job.precision.linear),
    )


def build(job: Job, checkpoint: Checkpoint | None = None) -> tuple[TorchEngine, bool]:
    """The engine, and whether the checkpoint's transformer was loaded for it."""
    asked = []

    def load(*words: Any) -> Any:
        asked.append(words[3])
        return load_family(*words)

    engine = build_engine(job, checkpoint or resolve(job.model), load=load)
    (trained,) = asked
    return engine, trained
