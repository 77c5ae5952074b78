"""`[parallel] cfg = 2`: two halves of a replica share the rows of classifier-free guidance.

A picture with classifier-free guidance is two rows of a transformer call, its prompt and its
negative prompt. Rows never meet inside the transformer: only their velocities do, once a step. So
one half of the ranks computes the first half of a group's rows, and the other half the others. The
pictures' rows stand first and then the second rows of the contrasted ones (`denoise.Rows`), so that
the halves are the prompts and the negative prompts where every picture is contrasted. In a mixed
group both halves have as many rows too, to within one.

    half 0, ranks 0 … cp - 1:        rows 0 … ⌈R/2⌉ - 1        tokens shared by cp ranks
    half 1, ranks cp … 2·cp - 1:     the other ⌊R/2⌋           likewise

Which half computes a row is settled for the whole group: what a step cache measures of a row stays
where it is. When pictures skip steps, a half may therefore have fewer rows to compute than the
other, or none. It then waits for the other's velocities.

Latents and velocities are whole, and the same bits on every rank, as without halves.

Legend: R rows of a group, T image tokens, C latent channels of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.mesh import shares


@dataclass(frozen=True, slots=True)
class SomeRows:
    """r of R rows."""

    # In rising order.
    numbers: Sequence[int]
    # The same on the device, int64.
    index: Tensor


@dataclass(frozen=True, slots=True)
class Share:
    """What this half computes of some rows."""

    # How many of the rows each half computes.
    counts: tuple[int, ...]
    # Where this half's stand among the rows.
    places: slice
    # Which these are of those that the half holds; None: all.
    rows: SomeRows | None


class Halves:
    """Which rows of one group this rank computes."""

    def __init__(self, ranks: Ranks, rows: int) -> None:
        """:param rows: R."""
        self._branches, self._rows = ranks.branches or Ranks(), rows
        sizes = shares(rows, self._branches.degree)
        starts = [sum(sizes[:half]) for half in range(len(sizes))]
        self._each = [range(first, first + size) for first, size in zip(starts, sizes, strict=True)]
        # The rows that this half computes.
        self.own = self._each[self._branches.rank]
        # The rows whose text and conditions this half has. A single row leaves the second half
        # without one: it has the first half's, because texts and conditions have a row at least.
        self.held = self.own or range(1)

    def share(self, rows: SomeRows | None) -> Share:
        """What this half computes of these rows.

        :param rows: some of the R rows; None: all.
        """
        if rows is None or self._branches.degree == 1:
            everything = slice(self.own.start, self.own.stop)
            return Share(tuple(map(len, self._each)), everything, rows)
        counts = tuple(sum(row in each for row in rows.numbers) for each in self._each)
        first = sum(counts[: self._branches.rank])
        places = slice(first, first + counts[self._branches.rank])
        if places.stop - first == len(self.own):
            return Share(counts, places, None)
        numbers = [row - self.own.start for row in rows.numbers[places]]
        return Share(counts, places, SomeRows(numbers, rows.index[places] - self.own.start))

    def join(self, velocities: Tensor, counts: Sequence[int]) -> Tensor:
        """The velocities [r, T, C] of all halves' rows: the same bits on every rank.

        :param velocities: of this half's share.
        :param counts: of `Share`.
        """
        return self._branches.join(velocities, counts, dim=0)

    def place(self, numbers: Tensor) -> Tensor:
        """Numbers of the rows that this half holds, [.., h] → of all rows, [.., R].

        Those that the half does not compute are zero, so that the sum over all ranks counts every
        row in one half alone.
        """
        if self._branches.degree == 1:
            return numbers
        every = numbers.new_zeros(*numbers.shape[:-1], self._rows)
        every[..., self.own.start : self.own.stop] = numbers[..., : len(self.own)]
        return every
