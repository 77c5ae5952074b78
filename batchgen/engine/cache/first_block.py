"""First-block cache: when the first blocks did to the picture what they did at the last computed step, the others would too.

Idea: ParaAttention's first-block cache, https://github.com/chengzeyi/ParaAttention, where one mean over the batch decides for all.
"""

from __future__ import annotations


class FirstBlock:
    """Skips while the first blocks' residual is within `threshold`, relative, of the last computed step's."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold

    def before(self, step: int, distance: float) -> bool:  # noqa: ARG002 - all steps are alike
        """See `Decider`."""
        return distance < self._threshold

    def after(self, step: int, distance: float) -> None:
        """Never called: this policy decides beforehand."""
