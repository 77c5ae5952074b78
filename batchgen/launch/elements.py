"""The elements of a job array: how many a site's nodes make, and jobs that do not fit them.

An element is one node with one task for each GPU, or as many nodes as one worker fills.
"""

from __future__ import annotations

import shutil

from batchgen.errors import SiteError, counted
from batchgen.launch.srun_options import refuse_srun_options
from batchgen.settings import Job, Site


def count_elements(site: Site, ranks: int, shards: int) -> int:
    """Elements of the job arrays: as many as the nodes make, but none without a shard to make."""
    return min(site.nodes // site.span(ranks), -(-shards // site.workers(ranks)))


def max_running(site: Site, ranks: int, elements: int) -> int:
    """Elements that may work at the same time."""
    return site.max_running // site.span(ranks) if site.max_running else elements


def refuse_misfit(site: Site, job: Job) -> None:
    """Refuse a job that does not fit the site, and a machine that cannot submit.

    :raises SiteError: with the remedy.
    """
    if not shutil.which("sbatch"):
        raise SiteError(
            "sbatch: not found. Type the command on a machine of the cluster; "
            "without --site (resume: with --local) the run works on this machine."
        )
    refuse_shape(site, job)


def refuse_shape(site: Site, job: Job) -> None:
    """Refuse a job whose workers do not fit the site's nodes.

    :raises SiteError: with the remedy.
    """
    refuse_srun_options(site)
    ranks, tasks, span = job.parallel.degree, site.tasks, site.span(job.parallel.degree)
    if job.engine.device == "cuda" and not site.gpus_per_node:
        raise SiteError('engine.device = "cuda", and the site profile says gpus_per_node = 0')
    if max(ranks, tasks) % min(ranks, tasks):
        raise SiteError(
            f"{job.parallel.spelled}, and the site profile has {counted(tasks, 'task')} a node: "
            "neither divides the other. A node holds whole replicas, or a replica fills whole "
            "nodes."
        )
    for key, nodes in (("nodes", site.nodes), ("max_running", site.max_running)):
        if nodes and nodes % span:
            raise SiteError(
                f"{key} = {nodes}: {job.parallel.spelled} fills {counted(span, 'node')} of "
                f"{counted(tasks, 'task')}, so take a multiple of {span}"
            )
    if job.run.workers != "auto" and "workers" in job.run.model_fields_set:
        raise SiteError(
            f"run.workers = {job.run.workers} is for runs on this machine: leave it out, and set "
            "nodes and workers_per_node in the site profile"
        )
    if job.run.time_limit_s:
        raise SiteError(
            "run.time_limit_s is for runs on this machine: take it out of the job file and set "
            "time in the site profile"
        )
