"""policy = "multistep": each picture computes the steps that its own error asks for.

At a computed step the prediction is compared with the truth. Their difference is the *error*. Times
h, how far sigma has fallen since the last computed step, it tells how far off the latents are that
were predicted. From it follows how far the next computed step may be. The distance to the last one
grows or shrinks by

    (tolerance / (error · h))^(1/5)          within 0.25 and 2

as step sizes of solvers of differential equations do. While h is small, error · h grows with its
third power; the higher root damps, because one error foretells the next one but roughly.

- Distances are those of the cube root of sigma. Velocities turn more quickly the less noise is
  left, and equal distances of the root are shorter and shorter ones of sigma.
- The rest of the way is divided evenly into stretches of about that distance, and the last step
  is always computed: otherwise two computed steps would often meet at the end.

How the constants were chosen is measured in benchmarks/log.md. Legend: N steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchgen.engine.cache.policy import Decider

# The least and most that the distance between computed steps changes at once.
_SHRINK, _GROW = 0.25, 2.0


def first_stretch(steps: int) -> int:
    """Steps to the second computed one, before an error is known."""
    return max(round(steps / 7), 2)


class Multistep(Decider):
    """Computes a step where the errors so far allow to go no further."""

    def __init__(self, tolerance: float, sigmas: Sequence[float]) -> None:
        """:param sigmas: [N + 1], falling."""
        self._tolerance, self._sigmas = tolerance, sigmas
        # Where the steps lie on the way.
        self._places = [sigma ** (1 / 3) for sigma in sigmas]
        self._last = len(sigmas) - 2
        self._computed, self._next = 0, 0

    def before(self, step: int, distance: float) -> bool:  # noqa: ARG002 - decided in `after`
        """See `Decider`."""
        return step != self._next

    def after(self, step: int, distance: float) -> None:
        """See `Decider`; the distance is the error. Of the first step it says nothing."""
        if step == 0:
            self._next = min(first_stretch(self._last + 1), self._last)
        elif step < self._last:
            off = distance * (self._sigmas[self._computed] - self._sigmas[step])
            growth = (self._tolerance / max(off, 1e-12)) ** 0.2 if math.isfinite(off) else 0.0
            growth = min(max(growth, _SHRINK), _GROW)
            reach = growth * (self._places[self._computed] - self._places[step])
            self._next = self._evenly(step, reach)
        self._computed = step

    def _evenly(self, step: int, reach: float) -> int:
        """The next step, if stretches of about `reach` divide the way to the last step evenly."""
        left = self._places[step] - self._places[self._last]
        place = self._places[step] - left / max(math.ceil(left / reach - 0.25), 1)
        return min(range(step + 1, self._last + 1), key=lambda k: abs(self._places[k] - place))
