"""policy = "multistep" with a schedule: the class's steps, and more where a picture errs more.

The schedule's computed steps are marks on the way of sigma: between two marks is a *stretch*, and
the last one ends with the picture. At a computed step the picture's error is compared with the
usual one of the sampled pictures there, E. The next stretch has its usual length where the picture
errs no more, and otherwise

    g · (E / error)^(1/2)                          of it, at least 0.3;  g: what the last one had

because the error of a predicted line grows with the square of its length. So a picture that is as
smooth as the usual one computes the steps of the schedule and no others. Between two marks, sigma
and E are interpolated. Legend: M computed steps of the schedule, N steps.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence

from batchgen.engine.cache.policy import Decider
from batchgen.settings import ClassSchedule

# The least share of a stretch.
_SHRINK = 0.3


class ScheduledStart(Decider):
    """Computes the schedule's steps while a picture errs no more than usual, otherwise more."""

    def __init__(self, schedule: ClassSchedule, sigmas: Sequence[float]) -> None:
        """:param schedule: of N steps, with errors.
        :param sigmas: [N + 1], falling.
        """
        self._sigmas = sigmas
        # The sigmas of the marks, falling, [M + 1].
        self._marks = [sigmas[step] for step in (*schedule.computed, len(sigmas) - 1)]
        # Of the M marks before the end. The first is never asked for.
        self._usual = [*schedule.errors[:1], *schedule.errors] or [math.inf]
        self._next = 0
        # Where the last computed step lies, in stretches; and how long the last stretch was.
        self._place, self._length = 0.0, 1.0

    def before(self, step: int, distance: float) -> bool:  # noqa: ARG002 - decided in `after`
        """See `Decider`."""
        return step != self._next

    def after(self, step: int, distance: float) -> None:
        """See `Decider`; the distance is the error. Of the first step it says nothing."""
        length = 1.0
        if step:
            usual = _between(self._usual, min(self._place, len(self._usual) - 1))
            growth = math.sqrt(usual / max(distance, 1e-12)) if math.isfinite(distance) else 0.0
            length = min(max(self._length * growth, _SHRINK), 1.0)
        end = min(self._place + length, len(self._marks) - 1)
        wanted = _between(self._marks, end)
        later = range(step + 1, len(self._sigmas))
        self._next = min(later, key=lambda one: abs(self._sigmas[one] - wanted))
        before, self._place = self._place, self._place_of(self._sigmas[self._next])
        self._length = self._place - before

    def _place_of(self, sigma: float) -> float:
        """In stretches from the begin."""
        after = max(bisect_left(self._marks, -sigma, key=lambda mark: -mark), 1)
        upper, lower = self._marks[after - 1], self._marks[after]
        return after - (sigma - lower) / (upper - lower)


def _between(values: Sequence[float], place: float) -> float:
    """The value at a place between the numbered ones, along the line."""
    low = min(math.floor(place), len(values) - 2) if len(values) > 1 else 0
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])
