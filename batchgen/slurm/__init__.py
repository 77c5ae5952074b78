"""What SLURM says: its queue, its commands, its environment. No submitit and no accounting.

    nodes.py              the nodes of a partition, and what SLURM says of each
    queue.py              calls squeue now and then; says which jobs live and which are gone
    commands.py           squeue, scontrol, scancel, sbatch --test-only
    environment.py        the job this process runs in: node, id, restarts, end, devices
    sbatch_variables.py   environment variables that win over a batch script

A room imports only rooms below it.
"""

from batchgen.slurm.commands import (
    ENDED,
    QueuedJob,
    Remembered,
    accounting,
    cancel,
    check_srun,
    list_jobs,
    max_array_size,
    ping,
    remembered,
    test_only,
)
from batchgen.slurm.environment import (
    devices,
    end_time,
    job_id,
    node,
    node_count,
    outside_of_a_job,
    restarts,
)
from batchgen.slurm.nodes import Node, expand_hosts, list_nodes
from batchgen.slurm.queue import Queue, jobs_of, label

__all__ = [
    "ENDED",
    "Node",
    "Queue",
    "QueuedJob",
    "Remembered",
    "accounting",
    "cancel",
    "check_srun",
    "devices",
    "end_time",
    "expand_hosts",
    "job_id",
    "jobs_of",
    "label",
    "list_jobs",
    "list_nodes",
    "max_array_size",
    "node",
    "node_count",
    "outside_of_a_job",
    "ping",
    "remembered",
    "restarts",
    "test_only",
]
