"""batchgen.engine.cache.schedule."""

from __future__ import annotations

from collections.abc import Collection


class Given:
    """Skips these steps."""

    def __init__(self, skip: Collection[int]) -> None:
        self._skip = skip

    def before(self, step: int, distance: float) -> bool:  # noqa: ARG002 - decided beforehand
        """See `Decider`."""
        return step in self._skip

    def after(self, step: int, distance: float) -> None:
        """Never called: this policy decides beforehand."""
