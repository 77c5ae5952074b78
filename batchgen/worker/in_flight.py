"""The groups that a worker has begun and not yet written, and the verdict on them.

This is made before the engine: a replica that fails reports its verdict here before its process
ends.
"""

from __future__ import annotations

from collections import deque

from batchgen.engine import Verdict
from batchgen.shard import PartialShard, Task, key_text

# One is being denoised while the one before is decoded and written.
GROUPS = 2


class InFlight:
    """The last groups that were begun, each with its shard."""

    def __init__(self) -> None:
        self._begun: deque[tuple[PartialShard, Task]] = deque(maxlen=GROUPS)

    def begin(self, partial: PartialShard, task: Task) -> None:
        """Write into the shard's journal that a group is being made."""
        partial.begin(task.at, len(task.pictures))
        self._begun.append((partial, task))

    def describe(self) -> str:
        """The pictures of groups that are not written yet. Any thread may call this."""
        left = [(one, task) for one, task in list(self._begun) if task.at >= one.position]
        return " and ".join(_name(partial, task) for partial, task in left) or "no picture"

    def judge(self, verdict: Verdict) -> None:
        """Write a verdict into the journal of the shard it is about. Any thread may call this."""
        for partial, task in list(self._begun):
            keys, first = [picture.key for picture in task.pictures], task.pictures[0]
            if verdict.pictures[0] in keys:
                at = task.at + keys.index(verdict.pictures[0])
                size = (first.width, first.height)
                partial.judge(at, len(verdict.pictures), size, verdict.cause, verdict.why)


def _name(partial: PartialShard, task: Task) -> str:
    first, last = (key_text(picture.key) for picture in (task.pictures[0], task.pictures[-1]))
    keys = f"picture {first}" if first == last else f"pictures {first}…{last}"
    return f"{keys} of shard {partial.shard:06d}"
