"""Why workers of a run's last submission left, died, gave up, or never came: a line each, with the last line they printed.

A job that SLURM has ended without its log being there could not even begin: its node does not see the run directory, or may not write
there. SLURM remembers which node that was for some minutes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from batchgen import slurm
from batchgen.errors import SchedulerSilent
from batchgen.run import (
    LeaveCause,
    Member,
    RunDirectory,
    Submission,
    batch_log,
    elements_of,
    given_up,
    log_file,
    read_stop,
    read_submissions,
)
from batchgen.slurm import Remembered
from batchgen.view.roster import Roster

MANY = 8  # jobs that are asked about, one by one
ASK_S = 30.0
_EXPECTED = {LeaveCause.NOTHING_FREE, LeaveCause.ALL_DONE, LeaveCause.STOP_FLAG}


def last_words(directory: RunDirectory, crew: Roster) -> list[str]:
    """What a person should know about workers that are gone, sorted."""
    last = read_submissions(directory)[-1:]
    if not last:
        return []
    number = last[0].number
    mine = [
        member
        for member in crew.members
        if member.role == "worker" and member.path.parent.name == f"{number:04d}"
    ]
    words = {f"a worker left: {member.departure}" for member in mine if _tells(member, crew)}
    words |= {
        f"worker {member.index} died on {member.owner.host}: {_tail(log_file(directory, number, member.index))}"
        for member in crew.dead
    }
    words |= set(given_up(directory, number))
    if last[0].site and not crew.trouble:
        words |= set(_never_came(directory, last[0], crew, {member.index for member in mine}))
    return sorted(words)


def _tells(member: Member, crew: Roster) -> bool:
    """Whether its reason is worth telling: an order to leave is not, while somebody works on or will."""
    left = member.departure
    if left is None or left.cause in _EXPECTED:
        return False
    return not (left.was_told and (crew.alive or crew.jobs or crew.supervised))


def _never_came(
    directory: RunDirectory, submission: Submission, crew: Roster, came: set[int]
) -> Iterator[str]:
    """Of elements that are over, and none of whose workers ever was one."""
    silent = [
        job
        for element, job in enumerate(elements_of(directory, submission.number))
        if job not in crew.jobs and not came & set(submission.of_element(element))
    ]
    for job in silent[:MANY]:
        was = _was(job, int(time.time() // ASK_S))
        if was and (
            was.state not in slurm.ENDED or was.state == "CANCELLED"
        ):  # the listing is older than it; or a person took it back
            continue
        if was is None and read_stop(
            directory
        ):  # elements that were cancelled before they had an id of their own are forgotten at once
            continue
        log = batch_log(directory, submission.number, job)
        if log.exists():
            yield f"job {job} ended before it was a worker: {_tail(log)}"
        else:
            where = (
                f"its node ({was.node}; SLURM says {was.reason})"
                if was
                else "unless it was cancelled, its node"
            )
            yield f"job {job} ended without a word: {where} does not see {directory.root}, or may not write there"


@lru_cache(maxsize=MANY)
def _was(job: str, _now: int) -> Remembered | None:
    """What became of a job, if SLURM remembers. Asked once in a while: `status --watch` looks twice a second."""
    try:
        return slurm.last_state(job)
    except SchedulerSilent:
        return None


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return next(
        (line for line in reversed(lines) if line.strip() and "submitit INFO" not in line),
        "it printed nothing",
    )
