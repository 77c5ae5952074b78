"""batchgen.launch.cancel."""

from __future__ import annotations

import os
import signal

from rich.console import Console

from batchgen import slurm
from batchgen.errors import SchedulerSilent
from batchgen.run import RunDirectory, ask_to_stop, load_plan, read_submissions, submissions
from batchgen.slurm import Queue, jobs_of


def terminate(directory: RunDirectory) -> None:
    """Ask the supervisors of a run on this machine to end their workers at once."""
    for member in submissions.members(directory):
        if member.role == "supervisor" and member.life() == "alive":
            os.kill(member.owner.pid, signal.SIGTERM)


def stop(
    directory: RunDirectory, console: Console, *, at_once: bool, again: str = "Ctrl-C again"
) -> None:
    """Ask a run to stop: after the groups in flight, or at once. `again` is how to insist."""
    ask_to_stop(directory, "user", "asked to stop")
    cancel_jobs(directory, at_once=at_once)
    if at_once:
        terminate(directory)
        console.print("Ending the workers now.")
    else:
        console.print(
            f"Stopping after the groups in flight; {again} ends the workers at once.",
            soft_wrap=True,
        )


def cancel_jobs(directory: RunDirectory, *, at_once: bool) -> None:
    """Cancel the run's jobs in SLURM, or only those that wait for a node: the others see the stop flag.

    :raises SchedulerSilent: they could not be found or cancelled; the stop flag is set all the same.
    """
    if not any(submission.site for submission in read_submissions(directory)):
        return
    queue = Queue()
    jobs = jobs_of(load_plan(directory).run, queue)
    if queue.trouble:
        raise SchedulerSilent(
            f"the run was asked to stop, and its workers will; but its jobs could not be cancelled: {queue.trouble}"
        )
    slurm.cancel(jobs, waiting_only=not at_once)
