"""The one door to an engine. Imports torch only if the job wants a model."""

from __future__ import annotations

from batchgen.checkpoint import Checkpoint
from batchgen.engine import Engine
from batchgen.engine.pattern import PatternEngine
from batchgen.job import Job


def open_engine(job: Job, checkpoint: Checkpoint | None) -> Engine:
    """The engine a job asks for, ready to work.

    :param checkpoint: the job's model, resolved; the pattern engine needs none.
    :raises JobError: the device is not there.
    :raises ModelError: the weights do not load, or a LoRA does not fit.
    """
    if job.engine.kind == "pattern":
        return PatternEngine(job.pattern.delay_s)
    from batchgen.engine.build import build_engine  # here: seconds, and gigabytes of address space

    assert checkpoint is not None, "a torch engine needs a resolved checkpoint"
    return build_engine(job, checkpoint)
