"""Why workers of the last submission left, died, were given up, or never came: one line each.

A SLURM job may end without a log. Then its node does not see the run directory or may not write
there. SLURM remembers for some minutes which node that was.
"""

from __future__ import annotations

from collections.abc import Iterator

from batchgen.run import (
    LeaveCause,
    Member,
    RunDirectory,
    Submission,
    batch_log,
    elements_given_up,
    elements_of,
    given_up,
    last_line,
    log_file,
    own_lines,
    read_stop,
    supervisor_log,
)
from batchgen.view.roster import Roster

# Jobs of which a person is told that they ended without a worker.
_MANY = 8
_EXPECTED = {LeaveCause.NOTHING_FREE, LeaveCause.ALL_DONE, LeaveCause.STOP_FLAG}


def last_words(directory: RunDirectory, roster: Roster) -> list[str]:
    """What a person should know about workers that are gone, sorted."""
    last = roster.last
    if last is None:
        return []
    number = last.number
    workers = [member for member in roster.of(last) if member.role == "worker"]
    lines = {f"a worker left: {m.departure}" for m in workers if _is_news(m, roster)}
    for member in roster.dead:
        printed = last_line(log_file(directory, number, member.index))
        lines.add(f"worker {member.index} died on {member.owner.host}: {printed}")
    lines |= set(given_up(directory, number))
    log = supervisor_log(directory, number)
    if own_lines(log) and not roster.supervised:
        lines.add(f"the supervisor ended: {last_line(log)}")
    if last.site and not roster.trouble:
        lines |= set(_never_came(directory, last, roster, {member.index for member in workers}))
    return sorted(lines)


def _is_news(member: Member, roster: Roster) -> bool:
    """Whether a person should know why a worker left.

    An order to leave is no news while somebody works or will work.
    """
    left = member.departure
    if left is None or left.cause in _EXPECTED:
        return False
    return not (left.was_told and (roster.alive or roster.jobs or roster.supervised))


def _never_came(
    directory: RunDirectory, submission: Submission, roster: Roster, came: set[int]
) -> Iterator[str]:
    """Elements that are over although none of their workers ever registered."""
    jobs = enumerate(elements_of(directory, submission.number))
    told = elements_given_up(directory, submission.number)
    over = [
        job
        for element, job in jobs
        if job not in roster.jobs
        and element not in told
        and not came & set(submission.of_element(element))
    ]
    for job in over[:_MANY]:
        was = roster.ended.get(job)
        if was and was.state == "CANCELLED":
            continue
        # SLURM forgets at once elements that are cancelled before they have an id of their own.
        if was is None and read_stop(directory):
            continue
        log = batch_log(directory, submission.number, job)
        if log.exists():
            yield f"job {job} ended before it was a worker: {last_line(log)}"
            continue
        node = "unless it was cancelled, its node"
        if was:
            node = f"its node ({was.node}; SLURM says {was.reason})"
        unseen = f"does not see {directory.root}, or may not write there"
        yield f"job {job} ended without a word: {node} {unseen}"
