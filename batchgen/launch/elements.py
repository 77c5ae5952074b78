"""batchgen.launch.elements."""

from __future__ import annotations

import shutil

from batchgen.errors import SiteError
from batchgen.settings import Job, Site


def count_elements(site: Site, ranks: int, shards: int) -> int:
    """Elements of the job arrays: as many as the nodes make, and no more than shards give work to."""
    return min(site.nodes // site.span(ranks), -(-shards // site.workers(ranks)))


def max_running(site: Site, ranks: int, elements: int) -> int:
    """Elements that may work at the same time."""
    return site.max_running // site.span(ranks) if site.max_running else elements


def refuse_misfit(site: Site, job: Job) -> None:
    """Refuse what the job asks for and this site cannot give, and a machine that cannot submit.

    :raises SiteError: with the remedy.
    """
    if not shutil.which("sbatch"):
        raise SiteError(
            "sbatch: not found. Submit on a machine of the cluster's; without --site (resume: with --local) the run works here."
        )
    refuse_shape(site, job)


def refuse_shape(site: Site, job: Job) -> None:
    """Refuse a job whose workers do not fit the site's nodes.

    :raises SiteError: with the remedy.
    """
    if job.engine.device == "cuda" and not site.gpus_per_node:
        raise SiteError('engine.device = "cuda", and the site profile says gpus_per_node = 0')
    ranks, span = job.parallel.degree, site.span(job.parallel.degree)
    if max(ranks, site.tasks) % min(ranks, site.tasks):
        raise SiteError(
            f"parallel.cp = {ranks}, and the site profile has {site.tasks} tasks a node: neither divides the other. "
            "A node holds whole replicas, or a replica fills whole nodes."
        )
    for key, nodes in (("nodes", site.nodes), ("max_running", site.max_running)):
        if nodes and nodes % span:
            raise SiteError(
                f"{key} = {nodes}: parallel.cp = {ranks} fills {span} nodes of {site.tasks} tasks, so take a multiple of {span}"
            )
    if job.run.time_limit_s:
        raise SiteError(
            "run.time_limit_s is for runs on this machine: take it out of the job file and set time in the site profile"
        )
