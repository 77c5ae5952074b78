"""Prompts → pixels. The engine knows nothing of shards, tar files or SLURM.

`open_engine` gives a worker its engine; `follow_engine` makes a process one of a replica's other
ranks. Rooms stand in the order of their imports: each imports only rooms below it.

    replica/            several ranks that act as one engine
    build.py            the techniques, applied in the one order that is right
    torch_engine.py     encode → denoise → decode
    score.py            [score]: what a scorer says about pictures
    denoise.py          the denoising loop
    forward_pass.py     one group's steps through the transformer
    vae/                latents → pixels
    precision/          [precision]: 8-bit linears
    cache/              [cache]: steps skipped, decided for each picture
    offload/            engine.offload: models that leave the device while they are not needed
    compile/            [compile]: compiled blocks, and the folder that keeps them
    parallel/           [parallel]: context parallelism
    pattern.py          engine.kind = "pattern": test cards without a model
    families/           one file a model family
    sizes.py            how decoding is portioned; planning shares the numbers
    trusted_files.py    files that only this user can have written
    attention/          engine.attention: the attention of every block
    modulation.py       adaLN vectors, computed once a group
    rules.py            what attention, offloading, compiling and guidance need; no torch
    interface.py        what a worker asks of an engine
    quiet_imports.py    imports without their noise
    device.py           one device: type, clock, names for its errors
"""

from __future__ import annotations

import os

from batchgen.engine.interface import Denoised, Engine, Rendezvous, Scored, Trace, Verdict, Workload
from batchgen.engine.pattern import PatternEngine
from batchgen.engine.quiet_imports import quiet_imports
from batchgen.model import Checkpoint
from batchgen.settings import Job

__all__ = [
    "Denoised",
    "Engine",
    "Rendezvous",
    "Scored",
    "Trace",
    "Verdict",
    "Workload",
    "follow_engine",
    "open_engine",
]


def open_engine(
    job: Job,
    checkpoint: Checkpoint | None,
    work: Workload | None = None,
    rendezvous: Rendezvous | None = None,
) -> Engine:
    """Open the engine that a job asks for, ready to work.

    :param checkpoint: the job's model, resolved; the pattern engine needs none.
    :param work: the sizes and numbers of pictures to come; blocks are compiled for these alone.
    :param rendezvous: how rank 0 meets its replica's other ranks; None for a rank alone.
    :raises JobError: the device is missing, or it lacks what the job asks for.
    :raises ModelError: the weights do not load, or a LoRA does not fit.
    :raises DeviceFault: the replica's other ranks do not come.
    """
    if job.engine.kind == "pattern":
        return PatternEngine(job.pattern.delay_s)
    if work:
        work.tell("importing PyTorch")
    _let_segments_grow()
    # Imported here, because torch takes seconds and gigabytes of address space.
    with quiet_imports():
        from batchgen.engine.replica.replica import lead

    assert checkpoint is not None, "a torch engine needs a resolved checkpoint"
    return lead(job, checkpoint, work, rendezvous or Rendezvous())


def follow_engine(
    job: Job, checkpoint: Checkpoint | None, work: Workload | None, rendezvous: Rendezvous
) -> None:
    """Be one of the replica's other ranks until rank 0 leaves. Parameters are `open_engine`'s.

    :raises DeviceFault: the replica failed.
    """
    if job.engine.kind == "pattern":
        return  # one process draws test cards
    _let_segments_grow()
    with quiet_imports():
        from batchgen.engine.replica.replica import follow

    assert checkpoint is not None, "a torch engine needs a resolved checkpoint"
    follow(job, checkpoint, work, rendezvous)


def _let_segments_grow() -> None:
    """Let PyTorch's CUDA memory grow in place, unless the user has set up its allocator.

    Groups of many sizes would leave holes between segments of fixed sizes. PyTorch reads the
    variable once, when it starts CUDA.
    https://docs.pytorch.org/docs/stable/notes/cuda.html#optimizing-memory-usage-with-pytorch-alloc-conf
    """
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
