"""Which published records still count: a picture is what the latest generation makes of it.

A generation that makes pictures again has a frozen list of them, and with each the shard that had
its record until then. From the moment when the generation is begun that record counts no more: the
picture is pending until it is published again. The record, and the sample of a good picture, stay
in the older shard's files, which are never rewritten.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchgen.run import RunDirectory, later_generations, read_list
from batchgen.shard.commit import published_shards, read_done
from batchgen.shard.metadata import read_metadata, stream_metadata

Ints = npt.NDArray[np.int64]


class Superseded:
    """The records of a run that count no more, as it is now."""

    def __init__(self, directory: RunDirectory) -> None:
        """:raises DamagedRun: the plan or the list of a generation is gone or damaged."""
        self._directory = directory
        self._keys: dict[int, list[Ints]] = {}
        # How many later generations were read.
        self.generations = 0
        for generation in later_generations(directory):
            self.generations += 1
            if not (generation.makes_again and generation.listed):
                continue
            listed = read_list(directory, generation.listed)
            keys, shards = listed["index"].to_numpy(), listed["shard"].to_numpy()
            order = np.argsort(shards, kind="stable")
            numbers, begins = np.unique(shards[order], return_index=True)
            for number, some in zip(
                numbers.tolist(), np.split(keys[order], begins[1:]), strict=True
            ):
                self._keys.setdefault(number, []).append(some)

    def keys(self, shard: int) -> Ints:
        """The keys of a shard's records that count no more."""
        return np.concatenate(self._keys.get(shard, [np.zeros(0, np.int64)]))

    def records(self, shard: int, columns: Sequence[str]) -> pa.Table:
        """A shard's records that count no more.

        :raises DamagedRun: its metadata is gone or damaged.
        """
        table = read_metadata(self._directory.metadata(shard), ["index", *columns])
        return table.filter(self._mask(shard, table))

    def good(self, shard: int) -> int:
        """How many good pictures of a shard count no more; raises as `records`."""
        if shard not in self._keys:
            return 0
        return int(pc.sum(pc.equal(self.records(shard, ["outcome"])["outcome"], "ok")).as_py() or 0)

    def without(self, shard: int, table: pa.Table) -> pa.Table:
        """Records of a shard, with their column `index`, without those that count no more."""
        if shard not in self._keys:
            return table
        return table.filter(pc.invert(self._mask(shard, table)))

    def current(self, shard: int, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """A shard's records that count, in their order, some at a time.

        :param columns: as of `stream_metadata`.
        :raises DamagedRun: its metadata is gone or damaged.
        """
        path = self._directory.metadata(shard)
        if shard not in self._keys or columns is None:
            for table in stream_metadata(path, columns):
                yield self.without(shard, table)
            return
        for table in stream_metadata(path, list(dict.fromkeys([*columns, "index"]))):
            kept = self.without(shard, table)
            yield kept.select([name for name in kept.column_names if name in columns])

    def _mask(self, shard: int, table: pa.Table) -> pa.ChunkedArray:
        return pc.is_in(table["index"], pa.array(self.keys(shard)))


def failed_keys(directory: RunDirectory) -> Ints:
    """The keys of all pictures whose last record is a failure, in ascending order.

    :raises DamagedRun: a commit or its metadata is gone or damaged.
    """
    superseded, found = Superseded(directory), [np.zeros(0, np.int64)]
    for shard in sorted(published_shards(directory)):
        if read_done(directory, shard).failed:
            for table in superseded.current(shard, ["index", "outcome"]):
                failed = table.filter(pc.equal(table["outcome"], "failed"))
                found.append(failed["index"].to_numpy())
    return np.sort(np.concatenate(found))
