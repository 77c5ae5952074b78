"""Noise levels that a job states itself: `sampling.sigmas`.

Distilled models are trained for a few levels, which their authors publish as a list. It means what
the argument `sigmas` of diffusers' pipelines means: the level at which each step begins, before the
scheduler shifts it. The last step ends without noise, at 0, which is not in the list.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import AfterValidator

# As many as there can be steps.
_MOST = 1000


def _check(sigmas: tuple[float, ...]) -> tuple[float, ...]:
    """Check that a denoising loop can go down these levels."""
    if len(sigmas) > _MOST:
        raise ValueError(f"{len(sigmas)} levels; expected at most {_MOST}")
    if any(not 0 < sigma <= 1 for sigma in sigmas):
        raise ValueError("expected levels above 0 and up to 1; the 0 at the end is not written")
    for before, after in pairwise(sigmas):
        if after >= before:
            raise ValueError(f"{before:g} is followed by {after:g}; expected falling levels")
    return sigmas


Sigmas = Annotated[tuple[float, ...], AfterValidator(_check)]
"""Falling noise levels, a step each; none: the levels are not stated."""
