"""batchgen.planning.cut."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from batchgen.manifest import ShapeColumns
from batchgen.planning.estimate import Estimate
from batchgen.planning.plan import Ints, Shard

SHARD_SECONDS = 15 * 60
SHARD_BYTES = 10**9
SMALL_RUN_SHARDS = 8
RADIX = 1 << 15  # above every width, height and number of steps


def shard_size(pictures: int, batch_size: int, estimate: Estimate) -> int:
    """Pictures a shard: about 15 minutes or 1 GB of work, and in small runs an eighth of it; whole groups."""
    by_time = SHARD_SECONDS / max(estimate.seconds, 1e-9)
    by_bytes = SHARD_BYTES / max(estimate.bytes, 1.0)
    size = max(1, min(by_time, by_bytes, pictures / SMALL_RUN_SHARDS))
    return int(-(-size // batch_size)) * batch_size


@dataclass(slots=True)
class Cutter:
    """Cuts the stream of rows into shards of `size` pictures, and counts their groups exactly.

    Feed it blocks of rows in order.
    """

    size: int
    batch_size: int
    shards: list[Shard]
    counts: dict[tuple[int, int], int]
    row: int = 0
    key: int = 0

    @classmethod
    def of(cls, size: int, batch_size: int) -> Cutter:
        """A cutter at the start of the manifest."""
        return cls(size, batch_size, [], {})

    def feed(self, rows: ShapeColumns) -> None:
        """The next rows."""
        ends = self.key + np.cumsum(rows.images)
        begins, last = ends - rows.images, int(ends[-1])
        cuts = np.arange(-(-self.key // self.size) * self.size, last, self.size)
        cut_rows = np.searchsorted(ends, cuts, side="right")
        skips = cuts - begins[cut_rows]
        for cut, row, skip in zip(cuts.tolist(), cut_rows.tolist(), skips.tolist(), strict=True):
            self.shards.append(Shard(cut, 0, self.row + row, skip))
        inside = skips > 0
        after = cut_rows[inside] + 1
        pieces = np.insert(np.arange(len(begins)), after, cut_rows[inside])
        self._count_groups(rows, pieces, np.insert(begins, after, cuts[inside]), last)
        self.row, self.key = self.row + len(begins), last

    def _count_groups(self, rows: ShapeColumns, pieces: Ints, starts: Ints, last: int) -> None:
        """Counts pieces, not pictures: a row may have 100,000. A piece is a row's part in one shard; `starts` are their first keys."""
        shape = ((rows.width * RADIX + rows.height) * RADIX + rows.steps) * 2 + rows.has_negative
        distinct, code = np.unique(shape, return_inverse=True)
        first = self.key // self.size
        places = (starts // self.size - first) * len(distinct) + code[pieces]
        counts = np.bincount(
            places, weights=np.diff(starts, append=last)
        )  # floats are exact up to 2**53
        for place in np.flatnonzero(counts).tolist():
            shard, which = divmod(place, len(distinct))
            key = (first + shard, int(distinct[which]))
            self.counts[key] = self.counts.get(key, 0) + int(counts[place])

    def finish(self) -> tuple[tuple[Shard, ...], int]:
        """All shards, and how many groups they have."""
        ends = [shard.first_key for shard in self.shards[1:]] + [self.key]
        shards = tuple(
            shard._replace(pictures=end - shard.first_key)
            for shard, end in zip(self.shards, ends, strict=True)
        )
        return shards, sum(-(-count // self.batch_size) for count in self.counts.values())
