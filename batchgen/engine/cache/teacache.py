"""TeaCache: skip until the estimated movements of the output add up to the threshold.

The relative movement of the first block's modulated input tells how far the output moves. A
polynomial that is fitted once a model turns the one into the other. A skipped step computes no
block at all. The movement is measured from the step before, whether that was skipped or computed.

Liu et al., Timestep Embedding Tells: It's Time to Cache, https://arxiv.org/abs/2411.19108.
"""

from __future__ import annotations

from functools import reduce

from batchgen.engine.cache.policy import Decider

# Each family's polynomial, highest power first. That of FLUX.1-dev is TeaCache4FLUX's, from
# ali-vilab/TeaCache. Thresholds of 0.25 to 0.8 are in use, 0.4 is the default: they are sums of
# movements of the output, and are not comparable with the thresholds of other policies.
COEFFICIENTS: dict[str, tuple[float, ...]] = {
    "flux": (4.98651651e02, -2.83781631e02, 5.58554382e01, -3.82021401e00, 2.64230861e-01)
}


class TeaCache(Decider):
    """Skips while the movements since the last computed step sum to less than `threshold`.

    The first and the last step are always computed.
    """

    def __init__(self, threshold: float, coefficients: tuple[float, ...], steps: int) -> None:
        self._threshold, self._coefficients, self._last = threshold, coefficients, steps - 1
        # The estimated movement of the output since the last computed step.
        self._moved = 0.0

    def before(self, step: int, distance: float) -> bool:
        """See `Decider`."""
        self._moved += rescale(self._coefficients, distance)
        hit = self._moved < self._threshold and step != self._last
        if not hit:
            self._moved = 0.0
        return hit


def rescale(coefficients: tuple[float, ...], distance: float) -> float:
    """The polynomial's value at `distance`, by Horner's rule; NaN at NaN."""
    return reduce(lambda value, factor: value * distance + factor, coefficients, 0.0)
