"""policy = "multistep": each picture computes the steps that its own error asks for.

At a computed step the prediction is compared with the truth. Their difference is the *error*. Times
h, how far sigma has fallen since the last computed step, it tells how far off the latents are that
were predicted. From it follows how far the next computed step may be. The distance to the last one
grows or shrinks by

    (tolerance / (error · h))^(1/5)          within 0.25 and 2

as step sizes of solvers of differential equations do. While h is small, error · h grows with its
third power; the higher root damps, because one error foretells the next one but roughly.

- Before an error is known, the size of the first velocity sets the distance: sigma falls by
  √(FIRST / size). If a velocity repeated over h turns in proportion to its size, the latents are
  off by about size · h². Classifier-free guidance enlarges velocities.
- Later distances are those of the cube root of sigma: velocities turn more quickly the less noise
  is left, and equal distances of the root are shorter and shorter ones of sigma.
- The rest of the way is divided evenly into stretches of about that distance, and the last step
  is always computed: otherwise two computed steps would often meet at the end.

Errors and sizes are root mean squares over the numbers of the latents, whose noise has a standard
deviation of 1. The constants were chosen on the embedded model: see benchmarks/log.md. Legend:
N steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from batchgen.engine.cache.policy import Decider

# The least and most that the distance between computed steps changes at once.
_SHRINK, _GROW = 0.25, 2.0
# Size · h² of the first stretch, before an error is known.
FIRST = 0.03


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
        """See `Decider`; the distance is the error, or at the first step the velocity's size."""
        if step == 0:
            first = self._sigmas[0] - math.sqrt(FIRST / max(distance, 1e-12))
            self._next = self._nearest(0, self._sigmas, first)
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
        return self._nearest(step, self._places, place)

    def _nearest(self, step: int, values: Sequence[float], value: float) -> int:
        """The later step, up to the last one, that is nearest."""
        later = range(step + 1, self._last + 1)
        return min(later, key=lambda k: abs(values[k] - value), default=step + 1)
