"""TeaCache: the first block's modulated input tells how far the output moves; skip until the movements add up to the threshold.

https://arxiv.org/abs/2411.19108. A polynomial, fitted once a model, turns the input's relative movement into the output's. Nothing is
computed on a skipped step, not even one block, and the reference is the step before, skipped or not.
"""

from __future__ import annotations

COEFFICIENTS = {  # highest power first
    "flux": (
        4.98651651e02,
        -2.83781631e02,
        5.58554382e01,
        -3.82021401e00,
        2.64230861e-01,
    )  # ali-vilab/TeaCache, TeaCache4FLUX
}
"""Family → rescaling polynomial, fitted to FLUX.1-dev. Its thresholds are of another kind than a distance: 0.25 to 0.8 are in use."""


class TeaCache:
    """Skips while the rescaled movements since the last computed step add up to less than `threshold`; computes first and last step."""

    def __init__(self, threshold: float, coefficients: tuple[float, ...], steps: int) -> None:
        self._threshold, self._coefficients, self._last = threshold, coefficients, steps - 1
        self._moved = 0.0  # since the last computed step

    def before(self, step: int, distance: float) -> bool:
        """See `Decider`."""
        self._moved += rescale(self._coefficients, distance)
        hit = self._moved < self._threshold and step != self._last
        if not hit:
            self._moved = 0.0
        return hit

    def after(self, step: int, distance: float) -> None:
        """Never called: this policy decides beforehand."""


def rescale(coefficients: tuple[float, ...], distance: float) -> float:
    """The polynomial's value (Horner); NaN of NaN."""
    value = 0.0
    for coefficient in coefficients:
        value = value * distance + coefficient
    return value
