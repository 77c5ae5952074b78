"""The SLURM job this process runs in, from its environment variables.

SLURMD_NODENAME tells a process that SLURM started on a node from a shell that `salloc` opened: the
shell has the job's id too, but the job may live on without it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from batchgen.slurm.sbatch_variables import variables_against

# Variables that say which cluster is meant. All other SLURM_* variables describe the job.
_OF_THE_CLUSTER = {"SLURM_CONF", "SLURM_CLUSTERS"}
_OF_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")


def node() -> str:
    """This machine's name: SLURM's inside a job, else the host's."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def job_id() -> str:
    """The job this process runs in; "" outside of SLURM. Each element of an array has its own."""
    return os.environ.get("SLURM_JOB_ID", "") if "SLURMD_NODENAME" in os.environ else ""


def node_count() -> int:
    """How many nodes this job has; 1 outside of SLURM."""
    return int(os.environ.get("SLURM_JOB_NUM_NODES") or 1) if job_id() else 1


def restarts() -> int:
    """How often this job was requeued before."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) if job_id() else 0


def end_time(now: float) -> float | None:
    """When this job's time is over, by this machine's clock; None without a time limit.

    SLURM gives start and end by the controller's clock. If `now` is not between them, the clocks
    differ, and the job is taken to begin now. All times are in seconds since the epoch.
    """
    try:
        start = float(os.environ["SLURM_JOB_START_TIME"])
        end = float(os.environ["SLURM_JOB_END_TIME"])
    except (KeyError, ValueError):
        return None
    return end if start - 60 <= now <= end else now + end - start


def devices() -> list[str]:
    """The GPUs this task was given; several tasks of a node may be given the same list."""
    return [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]


@contextmanager
def outside_of_a_job(script: str) -> Iterator[None]:
    """Hide what would change a batch script that is submitted now.

    That is the job this process may be in, of which the new one is to inherit nothing, and the
    variables that would win over options of the script. Presets of what the script leaves open
    stay.
    """
    against = variables_against(script)
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name not in _OF_THE_CLUSTER and (name in against or name.startswith(_OF_A_JOB))
    }
    try:
        yield
    finally:
        os.environ.update(hidden)
