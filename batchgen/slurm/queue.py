"""Whether jobs live, by squeue.

squeue may fail, lag, or leave jobs out while its controller restarts. So a job counts as gone only
when several good listings, some time apart, lack it, or when the controller itself says so
(`expect`). A listing that lacks the job of the asking process is not a good one. A requeued job
keeps its id: (id, restarts) is one incarnation of it, and a higher restart count in a listing
proves that the incarnation is over. All else is unknown.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from batchgen.errors import SchedulerSilent
from batchgen.process import Life
from batchgen.slurm.commands import ENDED, QueuedJob, Remembered, list_jobs, remembered
from batchgen.slurm.environment import job_id

# Bad listings in a row, after which nobody waits for a good one any more.
FAILURES = 3


class Queue:
    """Calls squeue now and then, and counts the good listings that lack a job.

    :param poll_s: least seconds between two listings; up to half as much is added at random.
    :param enough: a job is gone when so many good listings in a row lack it.
    """

    def __init__(self, poll_s: float = 60.0, *, enough: int = 2) -> None:
        self._poll_s, self._enough = poll_s, enough
        self._jobs: list[QueuedJob] = []
        self._by_id: dict[str, QueuedJob] = {}
        self._expected: set[str] = set()
        # Of the jobs that were expected and have ended: what the controller still remembers.
        self.ended: dict[str, Remembered] = {}
        # Incarnation → good listings in a row that lack it.
        self._missing: dict[tuple[str, int], int] = {}
        self._failures = 0
        # All workers run out of work in the same moment: their first calls are spread.
        spread = random.uniform(0, poll_s / 10) if job_id() else 0.0  # noqa: S311
        self._next = time.monotonic() + spread
        # Why the last listing was not a good one; "" if it was.
        self.trouble = ""

    def jobs(self) -> list[QueuedJob]:
        """All jobs of the last good listing."""
        self._refresh()
        return list(self._jobs)

    def expect(self, names: Iterable[str]) -> None:
        """Check listings that lack one of these jobs: ask the controller about the job itself.

        :param names: of elements or jobs, as people type them. They replace those of before.
        """
        self._expected = set(names)

    @property
    def due(self) -> bool:
        """Whether the next question makes a new listing."""
        return time.monotonic() >= self._next

    def notice(self, job: str, restarts: int) -> None:
        """Count the listings that lack this incarnation from now on."""
        self._missing.setdefault((job, restarts), 0)

    def life(self, job: str, restarts: int) -> Life:
        """Whether an incarnation of a job lives."""
        self.notice(job, restarts)
        self._refresh()
        found = self._by_id.get(job)
        if (found and found.restarts > restarts) or self._missing[job, restarts] >= self._enough:
            return "dead"
        # A job that waits without having been requeued is in a listing older than its start.
        return "unknown" if found is None or found.waits else "alive"

    def wait_s(self) -> float | None:
        """Seconds until another listing may settle what is unknown.

        None if nothing is unknown, or if `FAILURES` listings in a row were bad.
        """
        unsettled = any(self.life(*incarnation) == "unknown" for incarnation in list(self._missing))
        if not unsettled or self._failures >= FAILURES:
            return None
        return max(self._next - time.monotonic(), 0.0)

    def _refresh(self) -> None:
        """Make a new listing, if one is due."""
        if not self.due:
            return
        self._next = time.monotonic() + self._poll_s * random.uniform(1.0, 1.5)  # noqa: S311
        try:
            listed = _good_listing()
            self._jobs = [*listed, *self._unlisted(listed)]
        except SchedulerSilent as silent:
            self.trouble = str(silent)
            self._failures = self._failures + 1 if shutil.which("squeue") else FAILURES
            return
        self.trouble, self._failures = "", 0
        self._by_id = {job.id: job for job in self._jobs}
        for (job, restarts), listings in self._missing.items():
            found = self._by_id.get(job)
            lacking = found is None or found.waits
            self._missing[job, restarts] = listings + 1 if lacking else 0

    def _unlisted(self, listed: list[QueuedJob]) -> Iterator[QueuedJob]:
        """Expected jobs that have not ended, although the listing lacks them.

        :raises SchedulerSilent: the controller does not answer.
        """
        self.ended = {}
        lacking = self._expected - {name for job in listed for name in (job.id, job.name)}
        for array in sorted({name.partition("_")[0] for name in lacking}):
            known = _ask_controller(array)
            jobs = {name: job for job in known for name in (job.id, job.name)}
            # The elements that have not started are one job, under the id of the array.
            unborn = next((job for job in known if job.name == job.array and job.waits), None)
            for name in sorted(name for name in lacking if name.partition("_")[0] == array):
                job = jobs.get(name, unborn)
                if job and job.state in ENDED:
                    self.ended[name] = job
                elif job:
                    yield replace(job, name=name)


def _ask_controller(array: str) -> list[Remembered]:
    try:
        return remembered(array)
    except SchedulerSilent as silent:
        raise SchedulerSilent(f"squeue does not list job {array}, and {silent}") from None


def _good_listing() -> list[QueuedJob]:
    jobs = [job for job in list_jobs() if job.state not in ENDED]
    if (mine := job_id()) and mine not in {job.id for job in jobs}:
        raise SchedulerSilent(f"squeue does not list job {mine}, which asks")
    return jobs


def label(run: str) -> str:
    """The first words of the comment of a run's jobs, by which they are known."""
    return f"batchgen:{run}"


def jobs_of(run: str, queue: Queue) -> list[QueuedJob]:
    """The jobs of a run that have not ended, also those that no submission of the run lists."""
    return [job for job in queue.jobs() if job.comment.startswith(label(run))]
