"""The doors to an engine: rank 0's, which a worker drives, and the other ranks'. Import torch only if the job wants a model."""

from __future__ import annotations

from batchgen.checkpoint import Checkpoint
from batchgen.engine import Engine, Seat, Workload
from batchgen.engine.pattern import PatternEngine
from batchgen.engine.quiet import quiet_imports
from batchgen.job import Job


def open_engine(job: Job, checkpoint: Checkpoint | None, work: Workload | None = None, seat: Seat | None = None) -> Engine:
    """The engine a job asks for, ready to work.

    :param checkpoint: the job's model, resolved; the pattern engine needs none.
    :param work: sizes and numbers of pictures to come; blocks are compiled for these and no others.
    :param seat: rank 0 of its replica; None: a rank alone.
    :raises JobError: the device is not there, or what the job asks for is not to be had on it.
    :raises ModelError: the weights do not load, or a LoRA does not fit.
    :raises DeviceFault: the replica's other ranks do not come.
    """
    if job.engine.kind == "pattern":
        return PatternEngine(job.pattern.delay_s)
    with quiet_imports():
        from batchgen.engine.replica import lead  # here: torch takes seconds, and gigabytes of address space

    assert checkpoint is not None, "a torch engine needs a resolved checkpoint"
    return lead(job, checkpoint, work, seat or Seat())


def follow_engine(job: Job, checkpoint: Checkpoint | None, work: Workload | None, seat: Seat) -> None:
    """Be one of the replica's other ranks, until rank 0 needs it no more. As `open_engine`.

    :raises DeviceFault: the replica failed.
    """
    if job.engine.kind == "pattern":  # test cards need no second rank
        return
    with quiet_imports():
        from batchgen.engine.replica import follow

    assert checkpoint is not None, "a torch engine needs a resolved checkpoint"
    follow(job, checkpoint, work, seat)
