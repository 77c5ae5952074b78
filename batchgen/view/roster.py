"""Who works on a run: processes of this machine, workers in SLURM, and jobs that wait there.

Ask the operating system about processes of this machine and squeue about SLURM jobs. Workers
elsewhere cannot be asked: their state is unknown.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from batchgen.run import (
    Member,
    RunDirectory,
    Stage,
    Submission,
    members,
    owed_jobs,
    read_stage,
    read_submissions,
)
from batchgen.slurm import Queue, Remembered, jobs_of


@dataclass(frozen=True, slots=True)
class Roster:
    """All processes and jobs of a run, in one look."""

    # Oldest first.
    submissions: list[Submission]
    # Processes of all submissions, the latest submission first.
    members: list[Member]
    # Workers that live.
    alive: list[Member]
    # Workers of the last submission that died and were not replaced.
    dead: list[Member]
    # Workers on other machines that cannot be asked.
    unknown: list[Member]
    # Whether the supervisor on this machine lives.
    supervised: bool
    # Nodes that wait for an allocation, by SLURM's reason.
    waiting: dict[str, int]
    # Nodes that SLURM has given to the run and on which no worker lives: workers start or leave.
    starting: int
    # Why squeue could not be asked; "" if it could, or did not have to be.
    trouble: str
    # Names of the run's SLURM jobs that have not ended.
    jobs: frozenset[str]
    # SLURM jobs that have ended without a record of it in the run, as SLURM remembers them.
    ended: dict[str, Remembered]
    # What workers that live and have made nothing yet do; none once one of them has.
    stages: list[Stage]
    # Seconds that all workers lived, by the times of their files.
    worker_s: float

    @property
    def last(self) -> Submission | None:
        """The last submission."""
        return self.submissions[-1] if self.submissions else None

    @property
    def ranks(self) -> int:
        """Devices of a worker."""
        return self.last.ranks if self.last else 1

    def of(self, submission: Submission) -> list[Member]:
        """The processes of a submission."""
        return [member for member in self.members if member.submission == submission.number]


def take_roll(directory: RunDirectory, run: str, queue: Queue) -> Roster:
    """Look at all processes and jobs of a run.

    :param run: the run's id, which its SLURM jobs carry.
    """
    submissions, everybody = read_submissions(directory), list(members(directory))
    # One listing of squeue answers for all: note every job before the first question.
    queue.expect(owed_jobs(directory, submissions, everybody))
    for member in everybody:
        if member.owner.job and not member.departure:
            queue.notice(member.owner.job, member.owner.restarts)
    lives = [(member, member.life(queue)) for member in everybody]
    workers = [(member, life) for member, life in lives if member.role == "worker"]
    alive = [member for member, life in workers if life == "alive"]
    latest = {m.index: (m, life) for m, life in workers if m.submission == workers[0][0].submission}
    sites = [submission.site for submission in submissions if submission.site]
    jobs = jobs_of(run, queue) if sites else []
    span = max((site.span(submissions[-1].ranks) for site in sites), default=1)
    waiting = Counter(job.reason for job in jobs if job.waits)
    busy = {member.owner.job for member in alive}
    return Roster(
        submissions=submissions,
        members=everybody,
        alive=alive,
        dead=[m for m, life in latest.values() if life == "dead" and not m.departure],
        unknown=[member for member, life in workers if life == "unknown"],
        supervised=any(life == "alive" for member, life in lives if member.role == "supervisor"),
        waiting={reason: count * span for reason, count in waiting.items()},
        starting=sum(not job.waits and job.id not in busy for job in jobs) * span,
        trouble=queue.trouble,
        jobs=frozenset(job.name for job in jobs),
        ended=dict(queue.ended),
        stages=_stages(alive),
        worker_s=sum(_lived_s(member, alive=life == "alive") for member, life in workers),
    )


def _stages(alive: Sequence[Member]) -> list[Stage]:
    """What workers do before the first group, the longest first."""
    if any(member.made for member in alive):
        return []
    stages = (read_stage(member.path) for member in alive)
    return sorted(filter(None, stages), key=lambda stage: stage.seconds, reverse=True)


def _lived_s(member: Member, *, alive: bool) -> float:
    """Seconds from a worker's start to its end, or to its last group if it died.

    The times of its files are compared, because the clock of its machine may be wrong.
    """
    began = member.path.stat().st_mtime
    signs = [member.path, *(member.path.with_suffix(suffix) for suffix in (".made", ".end"))]
    last = time.time() if alive else max(sign.stat().st_mtime for sign in signs if sign.exists())
    return max(last - began, 0.0)
