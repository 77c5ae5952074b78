"""What the skipped blocks would have added: each row's last residual, extrapolated over sigma.

The extrapolation is Newton's polynomial through a row's last computed steps k, k-1, …. With order 1

    r(s) = r_k + (r_k - r_{k-1}) / (s_k - s_{k-1}) · (s - s_k)        s: sigma, the noise level

Each row has computed steps of its own, and therefore sigmas and differences of its own. A row with
too few computed steps has a lower order until it has enough. The variable is sigma and not the
number of the step, because schedules space their steps unevenly: this gains 2 dB on the embedded
model with the shift of a 1024 px picture.

A trend is followed for as long as it was watched: s goes no further beyond s_k than s_k lies beyond
s_{k-1}. Without this limit, two computed steps close together and then many skipped ones cost the
worst of 16 pictures 13 dB.

TaylorSeer showed that cached values should follow their trend: https://arxiv.org/abs/2503.06923.

Legend: R rows, T image tokens, D width, N steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from batchgen.engine.cache.selection import Selection


class Residual:
    """The residuals of a group's rows, renewed where they are computed."""

    def __init__(self, order: int, sigmas: Sequence[float], rows: int) -> None:
        """:param order: of the extrapolation; 0 reuses the last residual as it is.
        :param sigmas: [N + 1], falling.
        :param rows: R.
        """
        self._order, self._sigmas = order, sigmas
        # The residual, then its divided differences up to the order: each [R, T, D].
        self._differences: list[Tensor] = []
        # For each row, the sigmas of its last computed steps, latest first.
        self._known: list[list[float]] = [[] for _ in range(rows)]

    def last(self, rows: Selection) -> Tensor | None:
        """The last computed residuals of these rows, [n, T, D]; None before the first step."""
        return rows.of(self._differences[0]) if self._differences else None

    def renew(self, step: int, rows: Selection, residual: Tensor) -> None:
        """Store residuals [n, T, D] computed for these rows. The first step computes all rows."""
        sigma = self._sigmas[step]
        if self._differences:
            self._renew_differences(sigma, rows, residual)
        else:
            assert rows.index is None, "the first step is computed for all rows"
            higher = (torch.zeros_like(residual) for _ in range(self._order))
            self._differences = [residual, *higher]
        for row in rows.numbers:
            self._known[row] = [sigma, *self._known[row]][: self._order + 1]

    def _renew_differences(self, sigma: float, rows: Selection, new: Tensor) -> None:
        known = [self._known[row] for row in rows.numbers]
        for order, old in enumerate(self._differences):
            self._differences[order] = rows.put(old, new.to(old.dtype))
            if order < self._order:
                slopes = [1 / (sigma - s[order]) if len(s) > order else 0.0 for s in known]
                new = (new - rows.of(old)) * _column(slopes, new)

    def at(self, step: int, rows: Selection) -> Tensor:
        """The residuals that these rows reuse at this step, [n, T, D]; fp32 if extrapolated."""
        value, weights = rows.of(self._differences[0]), [1.0] * len(rows.numbers)
        for order in range(1, self._order + 1):
            factors = [self._factor(row, order, self._sigmas[step]) for row in rows.numbers]
            weights = [w * factor for w, factor in zip(weights, factors, strict=True)]
            value = value + _column(weights, value) * rows.of(self._differences[order])
        return value

    def _factor(self, row: int, order: int, sigma: float) -> float:
        """The factor (s - s_{k+1-order}) of Newton's polynomial; 0 if the row lacks this order."""
        known = self._known[row]
        if len(known) <= order:
            return 0.0
        furthest = 2 * known[0] - known[1]
        return max(sigma, furthest) - known[order - 1]


def _column(numbers: Sequence[float], like: Tensor) -> Tensor:
    """The numbers as fp32 [n, 1, 1], on the device of `like`."""
    return torch.tensor(numbers, dtype=torch.float32, device=like.device)[:, None, None]
