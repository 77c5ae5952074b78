"""Prompts → pixels. Knows nothing of shards, tar files or SLURM.

`open_engine` gives a worker its engine; `follow_engine` makes a process one of a replica's other
ranks. Rooms in the order of their imports: each imports only rooms below it.

    replica/            several ranks that act as one engine
    build.py            the techniques, applied in the one order that is right
    torch_engine.py     encode → denoise → decode
    denoise.py          the denoising loop
    forward_pass.py     one group's steps through the transformer
    vae/                latents → pixels
    precision/          [precision]: 8-bit linears
    cache/              [cache]: steps skipped, decided for each picture
    offload.py          what leaves the device while it is not needed
    compile/            [compile]: compiled blocks, and the folder that keeps them
    parallel/           [parallel]: context parallelism
    pattern.py          engine.kind = "pattern": test cards without a model
    families/           one file a model family
    sizes.py            thresholds in pixels that planning shares
    trusted_files.py    files that only this user can have written
    attention/          the attention of every block
    modulation.py       adaLN vectors, computed once a group
    rules.py            what attention, offloading and guidance need; no torch
    interface.py        what a worker asks of an engine
    quiet_imports.py    imports without their noise
    device.py           one device: type, clock, its errors named
"""

from __future__ import annotations

from batchgen.engine.interface import Engine, Rendezvous, Workload
from batchgen.engine.pattern import PatternEngine
from batchgen.engine.quiet_imports import quiet_imports
from batchgen.model import Checkpoint
from batchgen.settings import Job


def open_engine(
    job: Job,
    checkpoint: Checkpoint | None,
    work: Workload | None = None,
    seat: Rendezvous | None = None,
) -> Engine:
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
        from batchgen.engine.replica.replica import (
            lead,  # here: torch takes seconds, and gigabytes of address space
        )

    assert checkpoint is not None, "a torch engine needs a resolved checkpoint"
    return lead(job, checkpoint, work, seat or Rendezvous())


def follow_engine(
    job: Job, checkpoint: Checkpoint | None, work: Workload | None, seat: Rendezvous
) -> None:
    """Be one of the replica's other ranks, until rank 0 needs it no more. As `open_engine`.

    :raises DeviceFault: the replica failed.
    """
    if job.engine.kind == "pattern":  # test cards need no second rank
        return
    with quiet_imports():
        from batchgen.engine.replica.replica import follow

    assert checkpoint is not None, "a torch engine needs a resolved checkpoint"
    follow(job, checkpoint, work, seat)
