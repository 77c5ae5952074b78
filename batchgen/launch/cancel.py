"""Ask a run to stop, or end its workers."""

from __future__ import annotations

import contextlib
import os
import signal

from batchgen import slurm
from batchgen.errors import SchedulerSilent, shell_command
from batchgen.run import (
    RunDirectory,
    ask_to_stop,
    load_plan,
    owed_jobs,
    read_submissions,
    refuse_others,
    submissions,
)
from batchgen.slurm import Queue, jobs_of


def cancel(directory: RunDirectory, *, at_once: bool) -> str:
    """Cancel a run, as `batchgen cancel` does.

    :return: a sentence that says what happens now.
    :raises SchedulerSilent: the run's jobs could not be cancelled; the stop flag is set.
    :raises OutputError: the run is somebody else's.
    """
    if directory.complete():
        cancel_jobs(directory, at_once=at_once)  # nodes that still wait in SLURM
        return "The run is complete: there is nothing to cancel."
    idle = _is_idle(directory)
    again = shell_command("batchgen", "cancel", directory.root, "--now")
    told = stop(directory, at_once=at_once, again=again)
    if not idle:
        return told
    resume = shell_command("batchgen", "resume", directory.root)
    return f"Nobody works on this run. It stays stopped until: {resume}"


def _is_idle(directory: RunDirectory) -> bool:
    """Whether all who worked on the run are known to be gone. Who waits in SLURM is not known."""
    if any(submission.site for submission in read_submissions(directory)):
        return False
    lives = [member.life() for member in submissions.members(directory)]
    return bool(lives) and set(lives) == {"dead"}


def stop(directory: RunDirectory, *, at_once: bool, again: str) -> str:
    """Ask a run to stop after the groups in flight, or end its workers at once.

    :param again: what a person does to end the workers after all.
    :return: a sentence that says what happens now.
    :raises SchedulerSilent: the run's jobs could not be cancelled; the stop flag is set.
    :raises OutputError: the run is somebody else's: he could name processes of yours in it.
    """
    refuse_others(directory)
    ask_to_stop(directory, "user", "asked to stop")
    cancel_jobs(directory, at_once=at_once)
    if not at_once:
        return f"Stopping after the groups in flight; {again} ends the workers at once."
    return _end_here(directory)


def _end_here(directory: RunDirectory) -> str:
    """End the processes of this machine that SLURM does not end; a sentence that says so.

    A supervisor ends its workers, and then the rest of what belongs to them. Workers whose
    supervisor died are ended one by one.
    """
    lives = [(member, member.life()) for member in submissions.members(directory)]
    alive = [member for member, life in lives if life == "alive"]
    supervised = {member.submission for member in alive if member.role == "supervisor"}
    for member in alive:
        if member.role == "supervisor" or not (member.owner.job or member.submission in supervised):
            terminate(member)
    elsewhere = sorted({m.owner.host for m, life in lives if life == "unknown" and not m.owner.job})
    if not elsewhere:
        return "Ending the workers now."
    there = shell_command("batchgen", "cancel", directory.root, "--now")
    return (
        f"{'Ending the workers of this machine now. ' if alive else ''}Workers on "
        f"{', '.join(elsewhere)}, if they live, stop after the groups in flight. To end them at "
        f"once, type there: {there}"
    )


def terminate(member: submissions.Member) -> None:
    """Ask a process of this machine to end at once. It may have ended meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(member.owner.pid, signal.SIGTERM)


def cancel_jobs(directory: RunDirectory, *, at_once: bool) -> None:
    """Cancel the run's SLURM jobs: all of them, or only those that wait for a node.

    :raises SchedulerSilent: the jobs could not be found or cancelled.
    """
    everything = read_submissions(directory)
    if not any(submission.site for submission in everything):
        return
    queue = Queue()
    queue.expect(owed_jobs(directory, everything, submissions.members(directory)))
    jobs = jobs_of(load_plan(directory).run, queue)
    if queue.trouble:
        raise SchedulerSilent(
            "the run was asked to stop, and its workers will; "
            f"but its jobs could not be cancelled: {queue.trouble}"
        )
    slurm.cancel(jobs, waiting_only=not at_once)
