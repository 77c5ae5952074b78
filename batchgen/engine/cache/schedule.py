"""Skip steps that are fixed beforehand: nothing is measured first, and nothing waited for."""

from __future__ import annotations

from collections.abc import Iterable

from batchgen.engine.cache.policy import Decider


class FixedSchedule(Decider):
    """Skips the steps of a list."""

    def __init__(self, skip: Iterable[int]) -> None:
        self._skip = frozenset(skip)

    def before(self, step: int, distance: float) -> bool:  # noqa: ARG002 - decided beforehand
        """See `Decider`."""
        return step in self._skip
