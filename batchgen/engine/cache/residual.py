"""What skipped blocks would have added: each row's last residual, or its extrapolation over sigma.

Newton's polynomial through a row's last computed steps k, k-1, …: with order 1

    r(s) = r_k + (r_k - r_{k-1}) / (s_k - s_{k-1}) · (s - s_k)

Each row has computed steps of its own, so its own sigmas and differences; a row with too few of them has a lower order until it has
enough. Over sigma, not over the number of the step, for schedules space their steps unevenly: 2 dB on the embedded model with the shift
of a 1024 px picture. That a cached value should follow its trend: TaylorSeer, https://arxiv.org/abs/2503.06923.

A trend holds for about as long as it was watched: s is taken no further beyond s_k than s_k lies beyond s_{k-1}. Without this rule two
computed steps close together, then many skipped ones, cost the worst of 16 pictures 13 dB.

Legend: R rows, T image tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from batchgen.engine.cache.selection import Selection


class Residual:
    """The residuals of a group's rows, renewed where they are computed."""

    def __init__(self, order: int, sigmas: Sequence[float], rows: int) -> None:
        """:param order: 0: the last residual as it is.
        :param sigmas: [N + 1], falling.
        """
        self._order, self._sigmas = order, sigmas
        self._differences: list[
            Tensor
        ] = []  # order + 1 of [R, T, D]: the residual, then its divided differences
        self._known: list[list[float]] = [
            [] for _ in range(rows)
        ]  # sigmas of a row's last computed steps, latest first

    def last(self, rows: Selection) -> Tensor | None:
        """The last computed ones, as they are; None before the first."""
        return rows.of(self._differences[0]) if self._differences else None

    def renew(self, step: int, rows: Selection, residual: Tensor) -> None:
        """These rows were computed. The first time, all must be."""
        if not self._differences:
            assert rows.index is None, "the first step is computed for all rows"
            self._differences = [
                residual,
                *(torch.zeros_like(residual) for _ in range(self._order)),
            ]
        else:
            self._renew_differences(self._sigmas[step], rows, residual)
        for row in rows.numbers:
            self._known[row] = [self._sigmas[step], *self._known[row]][: self._order + 1]

    def _renew_differences(self, sigma: float, rows: Selection, new: Tensor) -> None:
        for order in range(self._order + 1):
            old = self._differences[order]
            self._differences[order] = rows.put(old, new.to(old.dtype))
            if order < self._order:
                known = [self._known[row] for row in rows.numbers]
                slopes = [
                    1 / (sigma - sigmas[order]) if len(sigmas) > order else 0.0 for sigmas in known
                ]
                new = (new - rows.of(old)) * _column(slopes, new)

    def at(self, step: int, rows: Selection) -> Tensor:
        """What these rows' residuals are taken to be at this step, [rows, T, D]; fp32 where it is extrapolated."""
        value, weights = rows.of(self._differences[0]), [1.0] * len(rows.numbers)
        for order in range(1, self._order + 1):
            weights = [
                weight * self._gap(row, order, self._sigmas[step])
                for row, weight in zip(rows.numbers, weights, strict=True)
            ]
            value = value + _column(weights, value) * rows.of(self._differences[order])
        return value

    def _gap(self, row: int, order: int, sigma: float) -> float:
        """What this order adds to the weight of its difference; 0 where too few steps were computed to have one."""
        known = self._known[row]
        if len(known) <= order:
            return 0.0
        return max(sigma, 2 * known[0] - known[1]) - known[order - 1]


def _column(numbers: Sequence[float], like: Tensor) -> Tensor:
    """[n, 1, 1], fp32."""
    return torch.tensor(numbers, dtype=torch.float32, device=like.device)[:, None, None]
