"""AdaCache, adapted: the faster the residual moved between two computed steps, the fewer steps reuse it.

https://arxiv.org/abs/2411.02397. The paper is about video models and measures one block's attention residual; no codebook for FLUX is
published. Here the residual of all blocks together is measured, and the paper's codebook ("fast", 30 steps, Open-Sora) is scaled so
that its highest limit with a reuse, 0.40, is the threshold: `threshold = 0.40` gives the paper's numbers. Only a calibration can say
what suits a model. Not covered: motion regularization, which still pictures have no use for.
"""

from __future__ import annotations

CODEBOOK = ((0.2, 5), (0.4, 4), (0.6, 3), (0.8, 2), (1.0, 1))
"""(Rate of change under this share of the threshold, steps that reuse the residual). The paper counts the computed step too: 6, 5, … 2."""


class AdaCache:
    """After a computed step, grants the next ones a reuse by how fast the residual changes, relative and a step."""

    def __init__(
        self, threshold: float, codebook: tuple[tuple[float, int], ...] = CODEBOOK
    ) -> None:
        self._threshold, self._codebook = threshold, codebook
        self._granted = 0
        self._computed = 0  # the last computed step

    def before(self, step: int, distance: float) -> bool:  # noqa: ARG002 - decided after the last computed step
        """See `Decider`."""
        hit = self._granted > 0
        self._granted -= hit
        return hit

    def after(self, step: int, distance: float) -> None:
        """See `Decider`."""
        rate = distance / max(step - self._computed, 1)
        self._computed = step
        self._granted = next(
            (steps for share, steps in self._codebook if rate < share * self._threshold), 0
        )
