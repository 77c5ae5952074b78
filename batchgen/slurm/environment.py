"""batchgen.slurm.environment."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_KEPT = {
    "SLURM_CONF",
    "SLURM_CLUSTERS",
}  # say which cluster is meant; all other SLURM_* describe the job we may be in


def label(run: str) -> str:
    """How the jobs of a run are known: their comment begins so."""
    return f"batchgen:{run}"


def node() -> str:
    """This machine's name: SLURM's, inside a job, else the host's."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def job_id() -> str:
    """The job this process runs in; "" outside of SLURM. Every element of an array has its own."""
    return os.environ.get("SLURM_JOB_ID", "") if "SLURMD_NODENAME" in os.environ else ""


def restarts() -> int:
    """How often this job was requeued before."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) if job_id() else 0


def end_time(now: float) -> float | None:
    """When this job's time is over, in seconds since the epoch by this machine's clock; None where nobody says.

    SLURM's two times are of the controller's clock. Where `now` does not lie between them, clocks differ: the job is taken to begin now.
    """
    try:
        start, end = (
            float(os.environ["SLURM_JOB_START_TIME"]),
            float(os.environ["SLURM_JOB_END_TIME"]),
        )
    except (KeyError, ValueError):
        return None
    return end if start - 60 <= now <= end else now + end - start


def devices() -> list[str]:
    """The GPUs this task was given; several tasks of a node may be given the same list."""
    return [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]


@contextmanager
def outside_of_a_job(options: Sequence[str] = ()) -> Iterator[None]:
    """An environment in which a new job inherits nothing of the one this process may be in.

    :param options: of sbatch, which its SBATCH_* variables would override.
    """
    overridden = {f"SBATCH_{name.upper().replace('-', '_')}" for name in options}
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if (name.startswith(("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")) and name not in _KEPT)
        or name in overridden
    }
    try:
        yield
    finally:
        os.environ.update(hidden)
