"""What a policy is: a plan of what to measure, and a decider for every picture.

A decider sees the numbers of its own picture and no others. Therefore a picture skips the same
steps alone and in any group. A decider is made with its picture's group and dropped with it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from batchgen.manifest import Picture

# A trace is a string with one of these letters for each step.
SKIPPED, COMPUTED = "1", "0"


class Decider(ABC):
    """The decisions for one picture, step by step."""

    @abstractmethod
    def before(self, step: int, distance: float) -> bool:
        """Whether the picture skips this step. Asked once a step, in order.

        :param distance: d_b of `probe.py`, how far the signal has moved. It is NaN where nothing
            was measured or the step must be computed. NaN is never a reason to skip.
        """

    def after(self, step: int, distance: float) -> None:  # noqa: B027
        """Learn from a computed step. Called only where the policy `learns`.

        :param distance: what the policy learns of `velocities.py`. At the first step, before which
            nothing was known, it is that of the whole velocity: its size as an error, 1 as a
            change.
        """


@dataclass(frozen=True, slots=True)
class Signal:
    """What is measured in the forward pass, at every step and before the decision."""

    # What the probe blocks added, or the first block's modulated input.
    kind: Literal["residual", "modulated"]
    # Every step computes this many blocks; the signal is measured after them.
    blocks: int = 0
    # The signal is compared with that of the last computed step, or of the step before.
    reference: Literal["computed", "previous"] = "computed"


@dataclass(frozen=True, slots=True)
class Policy:
    """How the steps to skip are chosen. A policy holds no state."""

    # Makes the decider of a picture, whose sigmas are [N + 1], falling.
    decider: Callable[[Picture, Sequence[float]], Decider]
    # None: a decision needs nothing of its step, and a skipped step computes nothing.
    signal: Signal | None = None
    # What deciders are told of a computed step: the error of its prediction, or the velocity's
    # change since the last computed step.
    learns: Literal["error", "change"] | None = None
    # The order in which velocities are extrapolated; 0 repeats the last one.
    taylor_order: int = 1


class Bounded(Decider):
    """A decider under limits: a step that they forbid to skip is computed."""

    def __init__(self, decider: Decider, warmup: int, max_consecutive: int | None) -> None:
        """:param warmup: steps at the start that are always computed.
        :param max_consecutive: steps in a row that may be skipped; None for any number.
        """
        self._decider, self._warmup = decider, warmup
        self._most = math.inf if max_consecutive is None else max_consecutive
        self._skipped_in_a_row = 0

    def before(self, step: int, distance: float) -> bool:
        """See `Decider`. Where a skip is forbidden, the inner decider is told NaN."""
        allowed = step >= self._warmup and self._skipped_in_a_row < self._most
        hit = self._decider.before(step, distance if allowed else math.nan) and allowed
        self._skipped_in_a_row = self._skipped_in_a_row + 1 if hit else 0
        return hit

    def after(self, step: int, distance: float) -> None:
        """See `Decider`."""
        self._decider.after(step, distance)
