"""Who works on a run: processes of this machine, workers in SLURM, and what waits there for a node.

Truth is asked in one place each: a process of this machine of its operating system, a job of squeue, all else of nobody.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from batchgen.run import Member, RunDirectory, members, read_submissions
from batchgen.slurm import Queue, jobs_of


@dataclass(frozen=True, slots=True)
class Roster:
    """One look at everybody who was ever submitted."""

    members: list[Member]
    alive: list[Member]  # workers
    dead: list[Member]  # workers of the last submission who died and have no successor
    unknown: list[Member]  # workers of other machines, of whom nobody can be asked
    supervised: bool  # the local supervisor lives
    waiting: dict[str, int]  # SLURM's reason → nodes that wait for an allocation
    starting: int  # nodes of ours on which no worker lives: they start, or end
    trouble: str  # why squeue could not be asked; "" also where it need not be
    jobs: frozenset[str]  # names of the run's jobs that have not ended
    worker_s: float  # seconds that all workers lived, as far as their files tell
    ranks: int  # devices of a worker


def take_roll(directory: RunDirectory, run: str, queue: Queue) -> Roster:
    """Look at everybody.

    :param run: the run's id, by which its jobs are known.
    """
    everybody = list(members(directory))
    for member in everybody:  # before squeue is asked about the first
        if member.owner.job and not member.departure:
            queue.notice(member.owner.job, member.owner.restarts)
    lives = [(member, member.life(queue)) for member in everybody]
    workers = [(member, life) for member, life in lives if member.role == "worker"]
    alive = [member for member, life in workers if life == "alive"]
    last = {
        member.index: (member, life)
        for member, life in workers
        if member.path.parent == workers[0][0].path.parent
    }
    dead = [member for member, life in last.values() if life == "dead" and not member.departure]
    sent = read_submissions(directory)
    jobs = jobs_of(run, queue) if any(submission.site for submission in sent) else []
    ranks = sent[-1].ranks if sent else 1
    span = max((submission.site.span(ranks) for submission in sent if submission.site), default=1)
    busy = {member.owner.job for member in alive}
    return Roster(
        members=everybody,
        alive=alive,
        dead=dead,
        unknown=[member for member, life in workers if life == "unknown"],
        supervised=any(life == "alive" for member, life in lives if member.role == "supervisor"),
        waiting={
            reason: jobs * span
            for reason, jobs in Counter(job.reason for job in jobs if job.waits).items()
        },
        starting=sum(not job.waits and job.id not in busy for job in jobs) * span,
        trouble=queue.trouble,
        jobs=frozenset(job.name for job in jobs),
        ranks=ranks,
        worker_s=sum(_lived_s(member, alive=life == "alive") for member, life in workers),
    )


def _lived_s(member: Member, *, alive: bool) -> float:
    """From its start to its end; where it died, to the last group it wrote. By its files' times: its own clock may be wrong."""
    began = member.path.stat().st_mtime
    signs = [member.path, *(member.path.with_suffix(suffix) for suffix in (".made", ".end"))]
    last = time.time() if alive else max(sign.stat().st_mtime for sign in signs if sign.exists())
    return max(last - began, 0.0)
