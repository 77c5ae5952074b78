"""batchgen.slurm.queue."""

from __future__ import annotations

import random
import shutil
import time

from batchgen.errors import SchedulerSilent
from batchgen.process import Life
from batchgen.slurm.commands import ENDED, QueuedJob, list_jobs
from batchgen.slurm.environment import job_id, label


def jobs_of(run: str, queue: Queue) -> list[QueuedJob]:
    """The jobs of a run that have not ended, orphans included: they are known by their comment."""
    return [job for job in queue.jobs() if job.comment.startswith(label(run))]


POLL_S = 60.0  # least seconds between two listings, plus up to half as much again
FAILURES = 3  # bad listings in a row, after which waiting for a good one has no end in sight


class Queue:
    """Asks squeue now and then, and remembers who was missing in how many good listings.

    :param poll_s: least seconds between two listings.
    :param enough: good listings a job must be missing in to count as gone.
    """

    def __init__(self, poll_s: float = POLL_S, *, enough: int = 2) -> None:
        self._poll_s, self._enough = poll_s, enough
        self._jobs: list[QueuedJob] = []
        self._by_id: dict[str, QueuedJob] = {}
        self._missing: dict[tuple[str, int], int] = {}
        self._failures = 0
        spread = random.uniform(0, poll_s / 10) if job_id() else 0.0  # noqa: S311 - all workers run out of work in the same moment
        self._next = time.monotonic() + spread
        self.trouble = ""  # why the last listing was not a good one

    def jobs(self) -> list[QueuedJob]:
        """All jobs of the last good listing."""
        self._look()
        return list(self._jobs)

    @property
    def due(self) -> bool:
        """Whether the next question makes a new listing."""
        return time.monotonic() >= self._next

    def notice(self, job: str, restarts: int) -> None:
        """An incarnation of a job exists: listings from now on should have it."""
        self._missing.setdefault((job, restarts), 0)

    def life(self, job: str, restarts: int) -> Life:
        """Whether an incarnation of a job lives."""
        self.notice(job, restarts)
        self._look()
        found = self._by_id.get(job)
        if (found and found.restarts > restarts) or self._missing[job, restarts] >= self._enough:
            return "dead"
        return (
            "unknown" if found is None or found.waits else "alive"
        )  # it waits, and was not requeued: the listing is older than it

    def wait_s(self) -> float | None:
        """Seconds until another listing may settle what is unknown; None where nothing is, or squeue has been silent for long."""
        unsettled = any(self.life(*incarnation) == "unknown" for incarnation in list(self._missing))
        return (
            max(self._next - time.monotonic(), 0.0)
            if unsettled and self._failures < FAILURES
            else None
        )

    def _look(self) -> None:
        if not self.due:
            return
        self._next = time.monotonic() + self._poll_s * random.uniform(1.0, 1.5)  # noqa: S311
        try:
            self._jobs = self._good_listing()
            self._by_id = {job.id: job for job in self._jobs}
        except SchedulerSilent as silent:
            self.trouble, self._failures = (
                str(silent),
                self._failures + 1 if shutil.which("squeue") else FAILURES,
            )
            return
        self.trouble, self._failures = "", 0
        for job, restarts in self._missing:
            found = self._by_id.get(job)
            self._missing[job, restarts] = (
                self._missing[job, restarts] + 1 if found is None or found.waits else 0
            )

    def _good_listing(self) -> list[QueuedJob]:
        jobs = [job for job in list_jobs() if job.state not in ENDED]
        if (mine := job_id()) and mine not in {job.id for job in jobs}:
            raise SchedulerSilent(f"squeue does not list job {mine}, which asks")
        return jobs
