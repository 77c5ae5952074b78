"""Bring workers to a run, on this machine or in SLURM."""

from __future__ import annotations

from batchgen.errors import counted
from batchgen.launch import slurm_array, supervisor
from batchgen.run import Run, arrays_of, clear_stop
from batchgen.settings import Site
from batchgen.worker.sick_devices import forgive


def start(
    run: Run, site: Site | None, command: list[str], *, add: int | None = None, steal: bool = False
) -> str:
    """Launch workers for what a run lacks.

    A stop that somebody asked for is over, and devices that were found sick are tried again.

    :param site: None for this machine.
    :param command: what was typed; it is recorded.
    :param add: how many workers of this machine, or nodes of the site; None for all that the job
        and the site ask for.
    :param steal: take shards from owners that cannot be asked about.
    :return: what was started, in a sentence.
    """
    clear_stop(run.directory)
    forgive(run.directory)
    if site is None:
        submission = supervisor.launch(run, command, workers=add, steal=steal)
        return f"{counted(submission.workers, 'worker')} started."
    submission = slurm_array.launch_on(site, run, command, nodes=add, steal=steal)
    nodes = counted(submission.workers * submission.ranks // site.tasks, "node")
    arrays = ", ".join(arrays_of(run.directory, submission.number))
    return f"{counted(submission.workers, 'worker')} on {nodes} submitted to SLURM as {arrays}."
