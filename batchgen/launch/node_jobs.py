"""A short job on each of some nodes, for what is no run. It asks SLURM for what a run's jobs ask.

Each node has a job of its own: it starts when that node is free, and waits for no other.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from batchgen import slurm
from batchgen.errors import SiteError
from batchgen.launch.batch_script import python_command, sbatch_options, site_parameters
from batchgen.settings import Site

_NAMED = ("nodelist", "exclude")


def submit_to_node(
    site: Site, folder: Path, node: str, task: Callable[[], object], *, limit_min: int
) -> str:
    """Submit a job that calls `task` in one process on one node.

    :param folder: where submitit writes; the node has to see it.
    :param task: an object of a module: the node imports it from there.
    :return: the job's id.
    :raises SiteError: SLURM refuses the job, with its reason.
    """
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError
    from submitit.slurm.slurm import _make_sbatch_string

    parameters = site_parameters(site)
    others = parameters.pop("additional_parameters")
    parameters |= {
        "job_name": "batchgen-doctor",
        "comment": site.comment or None,
        "nodes": 1,
        "ntasks_per_node": 1,
        "time": limit_min,
        "additional_parameters": {
            **{name: value for name, value in others.items() if name not in _NAMED},
            "nodelist": node,
            "no-requeue": True,
        },
    }
    text = _make_sbatch_string(command="true", folder=folder, **parameters)
    with slurm.outside_of_a_job(text), redirect_stderr(StringIO()):
        try:
            executor = submitit.SlurmExecutor(folder=folder, python=python_command(site))
            executor.update_parameters(**parameters)
            return str(executor.submit(task).job_id)
        except (FailedJobError, FailedSubmissionError) as error:
            raise SiteError("; ".join(str(error).splitlines())) from None


def nodes_of(site: Site) -> list[slurm.Node]:
    """The nodes that a run on this site may get: of its partition, less those it excludes.

    :raises SchedulerSilent: SLURM cannot be asked.
    """
    options = sbatch_options(site)
    partition = site.partition or os.environ.get("SBATCH_PARTITION")
    nodes = slurm.list_nodes(partition)
    if listed := options.get("nodelist"):
        wanted = slurm.expand_hosts(listed)
        nodes = [node for node in nodes if node.name in wanted]
    if excluded := options.get("exclude"):
        unwanted = slurm.expand_hosts(excluded)
        nodes = [node for node in nodes if node.name not in unwanted]
    return nodes
