"""The stream of rows → shards, computed without expanding rows into pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from batchgen.manifest import ShapeColumns
from batchgen.planning.estimate import Estimate
from batchgen.planning.plan import Plan, Shard
from batchgen.settings import Job

SHARD_SECONDS = 15 * 60
SHARD_BYTES = 10**9
SMALL_RUN_SHARDS = 8
Ints = npt.NDArray[np.int64]


def shard_size(pictures: int, batch_size: int, estimate: Estimate) -> int:
    """How many pictures a shard gets: whole groups of about 15 minutes or 1 GB of work.

    In small runs it is an eighth of the run.
    """
    by_time = SHARD_SECONDS / max(estimate.seconds, 1e-9)
    by_bytes = SHARD_BYTES / max(estimate.bytes, 1.0)
    size = max(1, min(by_time, by_bytes, pictures / SMALL_RUN_SHARDS))
    return int(-(-size // batch_size)) * batch_size


def later_shard_size(plan: Plan, job: Job, pictures: int) -> int:
    """How many pictures a shard of a later generation gets, if a picture costs as before."""
    cost = Estimate(plan.seconds / plan.pictures, plan.bytes / plan.pictures, plan.speed)
    size = job.shards.pictures or shard_size(pictures, job.engine.batch_size, cost)
    return min(size, pictures)


def cut_shards(
    blocks: Iterable[ShapeColumns], size: int, batch_size: int
) -> tuple[tuple[Shard, ...], int]:
    """Cut rows into shards of `size` pictures.

    :param blocks: all rows of the manifest, in order.
    :returns: the shards, and how many groups of up to `batch_size` they have, counted exactly.
    """
    cutter = _Cutter(size)
    for rows in blocks:
        cutter.feed(rows)
    return cutter.shards(), sum(-(-count // batch_size) for count in cutter.counts.values())


@dataclass(slots=True)
class _Cutter:
    """Where shards begin, and how many pictures of each shape they hold."""

    size: int
    begun: list[Shard] = field(default_factory=list)
    # (shard, code of a shape) → pictures.
    counts: Counter[tuple[int, int]] = field(default_factory=Counter)
    row: int = 0
    key: int = 0

    def feed(self, rows: ShapeColumns) -> None:
        """Continue with the next rows."""
        ends = self.key + np.cumsum(rows.images)
        begins, end = ends - rows.images, int(ends[-1])
        cuts = np.arange(-(-self.key // self.size) * self.size, end, self.size)
        cut_rows = np.searchsorted(ends, cuts, side="right")
        skips = cuts - begins[cut_rows]
        for cut, row, skip in zip(cuts.tolist(), cut_rows.tolist(), skips.tolist(), strict=True):
            self.begun.append(Shard(cut, 0, self.row + row, skip))
        inside = skips > 0
        after = cut_rows[inside] + 1
        pieces = np.insert(np.arange(len(begins)), after, cut_rows[inside])
        self._count(rows, pieces, np.insert(begins, after, cuts[inside]), end)
        self.row, self.key = self.row + len(begins), end

    def _count(self, rows: ShapeColumns, pieces: Ints, starts: Ints, end: int) -> None:
        """Count the pictures of each shape in each shard: by pieces, for a row may have 100,000.

        :param pieces: the row of each piece. A piece is a row's part in one shard.
        :param starts: the first key of each piece.
        """
        distinct, code = np.unique(rows.codes(), return_inverse=True)
        first = self.key // self.size
        places = (starts // self.size - first) * len(distinct) + code[pieces]
        # The sums are floats: exact up to 2**53.
        counts = np.bincount(places, weights=np.diff(starts, append=end))
        for place in np.flatnonzero(counts).tolist():
            shard, which = divmod(place, len(distinct))
            self.counts[first + shard, int(distinct[which])] += int(counts[place])

    def shards(self) -> tuple[Shard, ...]:
        """All shards, each as long as the next one's begin allows."""
        ends = [shard.first_key for shard in self.begun[1:]] + [self.key]
        return tuple(
            shard._replace(pictures=end - shard.first_key)
            for shard, end in zip(self.begun, ends, strict=True)
        )
