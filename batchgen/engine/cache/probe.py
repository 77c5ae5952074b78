"""What the forward pass measures before a policy decides: how far a picture's signal has moved.

    embed → probe blocks → measure, then the other blocks and the head, for pictures that compute

A *signal* x after the probe blocks is compared with the same signal ref of an earlier step. For
every picture b, the distance is

    d_b = Σ|x_b - ref_b| / Σ|ref_b|        sums over the picture's rows, image tokens and width

The two rows of a picture with classifier-free guidance share one distance, and so one decision.
The fp32 sums are added over the ranks, and rank 0's result is broadcast: all ranks decide from the
same bits. The device is waited for once a step. Where a replica has two halves, a rank has the
signal of the rows that its half holds, and adds nothing to the sums of the others.

Legend: B pictures; R rows of a batch, each belonging to one picture; h of them that this half of
the replica holds; T image tokens of this rank; D width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from batchgen.engine.cache.policy import Signal
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.halves import Halves


class Probe:
    """The signal of one group, step by step."""

    def __init__(self, signal: Signal, owner: Sequence[int], ranks: Ranks, halves: Halves) -> None:
        """:param owner: [R], the number (0 … B-1) of the picture to which each row belongs.
        :param ranks: the ranks that make the pictures together.
        :param halves: which of the rows this rank holds.
        """
        self.signal, self._ranks, self._halves = signal, ranks, halves
        self._owner, self._pictures = torch.tensor(owner), max(owner) + 1
        # The signal of this step, and that with which the next one is compared: [h, T, D].
        self._values: Tensor | None = None
        self._reference: Tensor | None = None

    def measure(self, values: Tensor) -> list[float]:
        """Distances d_b, [B]; NaN at the first step. Called once a step, in order.

        :param values: the signal, [h, T, D]. It is kept, and must not be changed.
        """
        reference, self._values = self._reference, values
        if reference is None or self.signal.reference == "previous":
            self._reference = values
        if reference is None:
            return [math.nan] * self._pictures
        # In place, because a copy can take a gigabyte.
        change = values.to(torch.float32, copy=True).sub_(reference).abs_()
        sizes = reference.abs().sum((1, 2), dtype=torch.float32)
        sums = self._halves.place(torch.stack([change.sum((1, 2)), sizes]))  # [2, R]
        sums = self._ranks.agree(self._ranks.sum(sums)).cpu().double()
        changes, sizes = sums.new_zeros(2, self._pictures).index_add(1, self._owner, sums)
        distances: list[float] = (changes / sizes).tolist()
        return distances

    def computed(self, rows: Tensor | None) -> None:
        """These of the held rows are computed now, None for all; their reference follows."""
        assert self._values is not None, "nothing was measured"
        if self.signal.reference == "previous":
            return
        if rows is None or self._reference is None:
            self._reference = self._values
        else:
            some = self._values.index_select(0, rows)
            self._reference = self._reference.index_copy(0, rows, some)
