"""Who works on a run: processes of this machine, workers in SLURM, and jobs that wait there.

Ask the operating system about processes of this machine and squeue about SLURM jobs. Workers
elsewhere cannot be asked: their state is unknown.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from batchgen.run import (
    Failure,
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
from batchgen.units import duration

# Failures that are kept, the last ones.
FAILURES = 3


@dataclass(frozen=True, slots=True)
class AtWork:
    """A worker that lives, and what it says of itself."""

    submission: int
    worker: int
    host: str
    stage: Stage
    # Since its last sign of life.
    silent_s: float

    @property
    def s_per_picture(self) -> float | None:
        """Of its own pictures, all that it does included; None before the first."""
        made = self.stage.pictures
        return self.stage.making_s / made if made and self.stage.making_s else None


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
    # Workers that live and have said what they do.
    at_work: list[AtWork]
    # Pictures that failed last, by workers that live or are of the last submission.
    failures: list[Failure]
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

    @property
    def preparing(self) -> str:
        """What the longest silent worker does before the first group of all; "" from then on."""
        if not self.at_work or any(one.stage.pictures for one in self.at_work):
            return ""
        longest = max(self.at_work, key=lambda one: one.silent_s)
        return f"{longest.stage.words}, {duration(longest.silent_s)}"

    @property
    def pictures_per_second(self) -> float | None:
        """Of all workers together, as they say themselves; None before the first picture."""
        return sum(1 / one.s_per_picture for one in self.at_work if one.s_per_picture) or None

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
    at_work, failures = _hear(alive, (member for member, _ in latest.values()))
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
        at_work=at_work,
        failures=failures,
        worker_s=sum(_lived_s(member, alive=life == "alive") for member, life in workers),
    )


def _hear(alive: Sequence[Member], others: Iterable[Member]) -> tuple[list[AtWork], list[Failure]]:
    """What workers that live do, in their order, and which pictures failed last."""
    at_work: list[AtWork] = []
    failures: list[Failure] = []
    living = {member.path for member in alive}
    for member in (*alive, *(one for one in others if one.path not in living)):
        if noted := read_stage(member.path):
            stage, silent_s = noted
            failures += stage.failures
            if member.path in living:
                who = member.submission, member.index, member.owner.host
                at_work.append(AtWork(*who, stage, silent_s))
    at_work.sort(key=lambda one: (one.submission, one.worker))
    return at_work, sorted(failures, key=lambda one: one.at)[-FAILURES:]


def _lived_s(member: Member, *, alive: bool) -> float:
    """Seconds from a worker's start to its end, or to its last group if it died.

    The times of its files are compared, because the clock of its machine may be wrong.
    """
    began = member.path.stat().st_mtime
    signs = [member.path, *(member.path.with_suffix(suffix) for suffix in (".made", ".end"))]
    last = time.time() if alive else max(sign.stat().st_mtime for sign in signs if sign.exists())
    return max(last - began, 0.0)
