"""policy = "multistep": each picture computes the steps that its own error asks for.

At a computed step the prediction is compared with the truth. Their difference, the *error*, says
how far the next computed step may be. The distance h in sigma to the last computed one grows or
shrinks by

    (tolerance / (error · h))^(1/4)          within 0.3 and 2; before there are three, ^(1/2)

as step sizes of solvers of differential equations do. The remaining steps are then divided evenly
into as few stretches as that distance allows, and the last step is always computed: otherwise two
computed steps would often meet at the end. Legend: N steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchgen.engine.cache.policy import Decider

# Steps to the second computed one, before an error is known.
FIRST_STEPS = 5
# The most that the distance between computed steps shrinks and grows at once.
_SHRINK, _GROW = 0.3, 2.0


class Multistep(Decider):
    """Computes a step where the errors so far allow to go no further."""

    def __init__(self, tolerance: float, sigmas: Sequence[float]) -> None:
        """:param sigmas: [N + 1], falling."""
        self._tolerance, self._sigmas = tolerance, sigmas
        self._next = 0
        # The computed steps so far.
        self._computed: list[int] = []

    def before(self, step: int, distance: float) -> bool:  # noqa: ARG002 - decided in `after`
        """See `Decider`."""
        return step != self._next

    def after(self, step: int, distance: float) -> None:
        """See `Decider`; the distance is the error. Of the first step it says nothing."""
        if not self._computed:
            self._next = min(step + FIRST_STEPS, max(len(self._sigmas) - 2, 1))
        else:
            height = self._sigmas[self._computed[-1]] - self._sigmas[step]
            root = 4 if len(self._computed) > 1 else 2
            growth = (self._tolerance / max(distance * height, 1e-12)) ** (1 / root)
            growth = min(max(growth, _SHRINK), _GROW) if math.isfinite(growth) else _SHRINK
            self._next = step + self._evenly(step, height * growth)
        self._computed.append(step)

    def _evenly(self, step: int, height: float) -> int:
        """How many steps on the next computed one is, no further than `height` in sigma."""
        least = self._sigmas[step] - height * (1 + 1e-6)
        reached = sum(sigma >= least for sigma in self._sigmas[step + 1 : -1])
        left = len(self._sigmas) - 2 - step
        stretches = math.ceil(left / max(reached, 1))
        return math.ceil(left / max(stretches, 1)) or 1
