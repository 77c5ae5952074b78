"""What a policy is: data that says what is measured, and a decider for each picture that says what to do about it.

A decider sees one picture's numbers and never its neighbours': that a picture skips the same steps alone and in a group holds by
construction. It is born with the picture's group and dies with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

SKIPPED, COMPUTED = "1", "0"
"""A trace has a letter for each step."""


class Decider(Protocol):
    """One picture's decisions, step by step."""

    def before(self, step: int, distance: float) -> bool:
        """Whether to skip this step's remaining blocks. Called once a step, in order.

        :param distance: how far the signal has moved from its reference, relative; NaN where it was not measured or the step must be
            computed. NaN is never a reason to skip.
        """

    def after(self, step: int, distance: float) -> None:
        """The step was computed, and its residual lies so far from the last computed one's. Called only where the policy `judges`."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What to measure, where, against what; `decider` makes one picture's decisions of it. Holds no state."""

    decider: Callable[[int, int], Decider]  # (the picture's key, its number of steps)
    probe_blocks: int = 0  # blocks that every step computes; the signal is measured after them
    signal: Literal["residual", "modulated"] | None = (
        None  # of the probe blocks; input of the first block; nothing is measured
    )
    reference: Literal["computed", "previous"] = (
        "computed"  # the signal of the last computed step; of the step before
    )
    judges: bool = (
        False  # measure how the residual of the remaining blocks has moved, after a computed step
    )
    taylor_order: int = 0  # of the reused residual's extrapolation


class Bounded:
    """A decider under limits: what they forbid is computed, whatever was measured."""

    def __init__(self, decider: Decider, warmup: int, max_consecutive: int | None) -> None:
        """:param warmup: steps computed at the start.
        :param max_consecutive: steps in a row that may be skipped; None: any number.
        """
        self._decider, self._warmup, self._most = (
            decider,
            warmup,
            math.inf if max_consecutive is None else max_consecutive,
        )
        self._skipped = 0  # in a row, up to now

    def before(self, step: int, distance: float) -> bool:
        """See `Decider`. What is forbidden is told to the decider as not measured, so that it knows of the computed step."""
        allowed = step >= self._warmup and self._skipped < self._most
        hit = self._decider.before(step, distance if allowed else math.nan) and allowed
        self._skipped = self._skipped + 1 if hit else 0
        return hit

    def after(self, step: int, distance: float) -> None:
        """See `Decider`."""
        self._decider.after(step, distance)
