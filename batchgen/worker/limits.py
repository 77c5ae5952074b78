"""What limits a worker: its deadline, groups that hang, the failure budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from batchgen.errors import counted, shell_command
from batchgen.manifest import Picture
from batchgen.run import Run
from batchgen.shard import Record, count_pictures, unpublished_counts
from batchgen.worker.renderer import Made
from batchgen.worker.signals import HANG_S
from batchgen.worker.watchdog import Watchdog

# So many failures a run of any size may have.
LEAST_BUDGET = 10
# A group is assumed to take so much longer than the slowest one of its size before.
SAFETY = 1.25


@dataclass
class Limits:
    """The limits of one worker, and how long its groups have taken."""

    run: Run
    # Seconds since the epoch. No group begins that cannot finish before the deadline.
    deadline: float = math.inf
    # Seconds since the epoch. A worker that still works then is ended.
    end: float = math.inf
    watchdog: Watchdog = field(default_factory=Watchdog)
    # Seconds of the slowest group of each (width, height, steps).
    _slowest_s: dict[tuple[int, int, int], float] = field(default_factory=dict)

    def in_time(self, pictures: Sequence[Picture]) -> bool:
        """Whether a group of these pictures can finish before the deadline."""
        expected_s = SAFETY * self._slowest_s.get(_kind(pictures[0]), 0.0)
        return time.time() + expected_s <= self.deadline

    def watch(self, pictures: Callable[[], str]) -> None:
        """Start the time of a group. If it hangs, the process says so and ends.

        :param pictures: names what is being made, when it is asked.
        """
        timeout_s, left_s = self.run.job.run.group_timeout_s, self._left_s()
        if timeout_s <= left_s:
            self.watchdog.watch(timeout_s, lambda: self._took_too_long(pictures()))
        else:
            self._watch_end(pictures)

    def unwatch(self) -> None:
        """No group is being made. The process still ends with its SLURM job."""
        if self.end == math.inf:
            self.watchdog.call_off()
        else:
            self._watch_end(lambda: "no picture")

    def _left_s(self) -> float:
        """Seconds until the process must have ended."""
        return max(self.end + HANG_S - time.time(), 1.0)

    def _watch_end(self, pictures: Callable[[], str]) -> None:
        late = f"{HANG_S:.0f} s after the last moment of its SLURM job this worker still ran"
        self.watchdog.watch(self._left_s(), lambda: f"{late}, so it was ended; {pictures()}")

    def _took_too_long(self, pictures: str) -> str:
        limit_s = self.run.job.run.group_timeout_s
        longer = "run.group_timeout_s=SECONDS"
        resume = shell_command("batchgen", "resume", self.run.directory.root, "--set", longer)
        return (
            f"{pictures}: longer in flight than run.group_timeout_s = {limit_s:g}, so the worker "
            f"was ended. If they need more time: {resume}"
        )

    def learn(self, made: Sequence[Made]) -> None:
        """Remember how long a group took: all its parts, each once, and its audit."""
        kind = _kind(made[0].picture)
        group_s = sum({one.text_s + one.denoise_s + one.decode_s for one in made})
        group_s += sum(one.audited.device_s for one in made)
        self._slowest_s[kind] = max(self._slowest_s.get(kind, 0.0), group_s)

    def longest_s(self, records: Iterable[Record]) -> float:
        """Seconds that a group may take, by this worker's pace and records; 0 if unknown."""
        recorded = (one.group_s + one.audit_s * one.group_size for one in records)
        known = [*self._slowest_s.values(), *recorded]
        return SAFETY * max(known, default=0.0)

    def over_budget(self) -> str:
        """How far the run is over its failure budget; empty if it is not."""
        planned = self.run.plan.pictures
        budget = max(LEAST_BUDGET, math.ceil(self.run.job.run.failure_budget * planned))
        counts = count_pictures(self.run.directory)
        failed = counts.failed + unpublished_counts(self.run.directory, counts.shards).failed
        over = f"{failed:,} of {counted(planned, 'picture')} failed; the budget is {budget:,}"
        return over if failed > budget else ""


def _kind(picture: Picture) -> tuple[int, int, int]:
    return (picture.width, picture.height, picture.steps)
