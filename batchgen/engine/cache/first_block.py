"""First-block cache: skip while the first blocks do to the picture what they did before.

If the first blocks add nearly what they added at the last computed step, the others would too.
From ParaAttention, https://github.com/chengzeyi/ParaAttention, where one mean over the batch
decides for all its pictures.
"""

from __future__ import annotations

from batchgen.engine.cache.policy import Decider


class FirstBlock(Decider):
    """Skips while the first blocks' residual has moved by less than `threshold`, relatively."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def before(self, step: int, distance: float) -> bool:  # noqa: ARG002 - all steps are alike
        """See `Decider`."""
        return distance < self._threshold
