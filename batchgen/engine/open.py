"""The one door to an engine. Imports torch only if the job wants a model."""

from __future__ import annotations

from batchgen.checkpoint import Checkpoint
from batchgen.engine import Engine
from batchgen.engine.pattern import PatternEngine
from batchgen.job import Job


def open_engine(job: Job, checkpoint: Checkpoint | None) -> Engine:
    """The engine a job asks for, ready to work.

    :param checkpoint: the job's model, resolved; None for `engine.kind = "pattern"`.
    :raises JobError: the device is not there.
    :raises ModelError: the weights do not load, or a LoRA does not fit.
    """
    if checkpoint is None:
        return PatternEngine(job.pattern.delay_s)
    from batchgen.engine.build import build_engine  # noqa: PLC0415 - seconds, and gigabytes of address space

    return build_engine(job, checkpoint)
