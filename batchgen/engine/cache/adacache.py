"""AdaCache, adapted: the slower the velocity changes from step to step, the more steps skip.

The paper is about video models and measures the attention residual of one block. Here the velocity
is measured, what all blocks together make of the picture: |v - v_k| / |v| between computed steps,
per step. No codebook for FLUX is published, so the paper's codebook ("fast", 30 steps, Open-Sora)
is scaled: its highest limit that allows a reuse, 0.40, becomes the threshold. `threshold = 0.40`
gives the paper's numbers; only a calibration can tell what suits a model. Velocities change less
than residuals do: on the embedded model 0.02, the default, computes 11 of 28 steps, 0.04 computes
7, and from 0.06 on all grants are the largest. Motion regularization is left out: still pictures
have no motion.

Kahatapitiya et al., Adaptive Caching for Faster Video Generation, https://arxiv.org/abs/2411.02397.
"""

from __future__ import annotations

from batchgen.engine.cache.policy import Decider

# Pairs of a limit and a number of steps: below this share of the threshold, so many steps are
# skipped. The paper counts the computed step as well: 6, 5, … 2.
CODEBOOK = ((0.2, 5), (0.4, 4), (0.6, 3), (0.8, 2), (1.0, 1))


class AdaCache(Decider):
    """Grants skips after each computed step, by how fast the velocity has changed per step."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._granted = 0
        self._last_computed = 0

    def before(self, step: int, distance: float) -> bool:  # noqa: ARG002 - decided in `after`
        """See `Decider`."""
        hit = self._granted > 0
        self._granted -= hit
        return hit

    def after(self, step: int, distance: float) -> None:
        """See `Decider`."""
        rate = distance / max(step - self._last_computed, 1)
        self._last_computed = step
        grants = (steps for share, steps in CODEBOOK if rate < share * self._threshold)
        self._granted = next(grants, 0)
