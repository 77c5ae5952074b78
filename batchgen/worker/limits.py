"""What limits a worker: its deadline, groups that hang, the failure budget, a full disk."""

from __future__ import annotations

import faulthandler
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from batchgen.manifest import Picture
from batchgen.run import Run, RunDirectory, ask_to_stop
from batchgen.shard import Record, count_pictures, unpublished_counts
from batchgen.worker.renderer import Made
from batchgen.worker.signals import HANG_S

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
    # Seconds of the slowest group of each (width, height, steps).
    _slowest_s: dict[tuple[int, int, int], float] = field(default_factory=dict)

    def in_time(self, pictures: Sequence[Picture]) -> bool:
        """Whether a group of these pictures can finish before the deadline."""
        expected_s = SAFETY * self._slowest_s.get(_kind(pictures[0]), 0.0)
        return time.time() + expected_s <= self.deadline

    def watch(self) -> None:
        """Start the time of a group. If it hangs, the process prints its stacks and ends."""
        left_s = max(self.end + HANG_S - time.time(), 1.0)
        timeout_s = min(self.run.job.run.group_timeout_s, left_s)
        faulthandler.dump_traceback_later(timeout_s, exit=True)

    def unwatch(self) -> None:
        """No group is being made."""
        faulthandler.cancel_dump_traceback_later()

    def learn(self, made: Sequence[Made]) -> None:
        """Remember how long a group took: all its parts, each once."""
        kind = _kind(made[0].picture)
        group_s = sum({one.text_s + one.denoise_s + one.decode_s for one in made})
        self._slowest_s[kind] = max(self._slowest_s.get(kind, 0.0), group_s)

    def longest_s(self, records: Iterable[Record]) -> float:
        """Seconds that a group may take, by this worker's pace and records; 0 if unknown."""
        known = [*self._slowest_s.values(), *(record.group_s for record in records)]
        return SAFETY * max(known, default=0.0)

    def over_budget(self) -> str:
        """How far the run is over its failure budget; empty if it is not."""
        planned = self.run.plan.pictures
        budget = max(LEAST_BUDGET, math.ceil(self.run.job.run.failure_budget * planned))
        counts = count_pictures(self.run.directory)
        failed = counts.failed + unpublished_counts(self.run.directory, counts.shards)[1]
        over = f"{failed} of {planned} pictures failed; the budget is {budget}"
        return over if failed > budget else ""


def stop_full(directory: RunDirectory, error: BaseException) -> None:
    """Ask the run to stop because the disk is full."""
    reason = getattr(error, "strerror", error)
    ask_to_stop(directory, "disk full", f"{reason}; free space below {directory.root}")


def _kind(picture: Picture) -> tuple[int, int, int]:
    return (picture.width, picture.height, picture.steps)
