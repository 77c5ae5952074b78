"""What SLURM says: its environment, its commands, its queue. No submitit, no accounting.

    queue.py         asks squeue now and then; who was missing in several good listings
    commands.py      squeue, scontrol, scancel, sbatch --test-only
    environment.py   the job this process runs in: node, id, restarts, end, devices

A room imports only rooms below it.
"""

from batchgen.slurm.commands import ENDED, Remembered, cancel, last_state, max_array_size, test_only
from batchgen.slurm.environment import (
    devices,
    end_time,
    job_id,
    label,
    node,
    outside_of_a_job,
    restarts,
)
from batchgen.slurm.queue import Queue, jobs_of

__all__ = [
    "ENDED",
    "Queue",
    "Remembered",
    "cancel",
    "devices",
    "end_time",
    "job_id",
    "jobs_of",
    "label",
    "last_state",
    "max_array_size",
    "node",
    "outside_of_a_job",
    "restarts",
    "test_only",
]
