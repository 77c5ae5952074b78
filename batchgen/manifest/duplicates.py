"""Are ids unique? One 64-bit hash an id in the first pass; a second pass looks only at ids whose hash repeats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchgen.manifest.contract import normalise
from batchgen.manifest.files import ParquetManifest
from batchgen.manifest.problems import Problems, shorten
from batchgen.manifest.utf8 import replace, undecodable

_REMEMBERED = 100_000  # distinct ids compared as texts; repetitions beyond them are counted by their 64-bit hash alone


class IdHashes:
    """The hashes of all ids: 8 bytes each. Python's own, salted a process, so no manifest can be built to collide."""

    def __init__(self, capacity: int) -> None:
        self._hashes = np.empty(capacity, np.int64)  # memory is touched only as ids come
        self._count = 0

    def add(self, ids: pa.Array) -> None:
        """Take the ids of a batch; nulls and empty ones are absent."""
        new = hashes_of(ids)
        new = new[new != 0]
        self._hashes[self._count : self._count + len(new)] = new
        self._count += len(new)

    def repeated(self) -> npt.NDArray[np.int64]:
        """The hashes that occur more than once: each as often as it occurs beyond the first, sorted. Call it once, last."""
        taken = self._hashes[: self._count]
        taken.sort()
        again: npt.NDArray[np.int64] = taken[1:][taken[1:] == taken[:-1]]
        return again


def hashes_of(ids: pa.Array) -> npt.NDArray[np.int64]:
    """One hash a row, 0 where there is no id."""
    texts = ids.to_pylist()
    return np.fromiter(((hash(text) or 1) if text else 0 for text in texts), np.int64, len(texts))


def find_duplicates(
    opened: Sequence[ParquetManifest], hashes: IdHashes, problems: Problems
) -> None:
    """Report every row whose id an earlier row has, naming both rows."""
    suspects = np.unique(hashes.repeated())
    if not len(suspects):
        return
    search = _Search(suspects)
    for manifest in opened:
        for row, batch in manifest.batches(["id"]):
            ids = normalise(batch.column("id"), "id")
            search.batch(manifest, row, replace(ids, undecodable(ids), None), problems)


class _Search:
    """The second pass: where each suspect id stood first."""

    def __init__(self, suspects: npt.NDArray[np.int64]) -> None:
        self._suspects = suspects
        self._seen = np.zeros(
            len(suspects), np.bool_
        )  # for the ids that are not remembered as texts
        self._first: dict[str, str] = {}

    def batch(self, manifest: ParquetManifest, row: int, ids: pa.Array, problems: Problems) -> None:
        """Report the repetitions among rows `row …` of a file."""
        hashes = hashes_of(ids)
        rows = np.flatnonzero(np.isin(hashes, self._suspects))
        suspect = np.searchsorted(self._suspects, hashes[rows])
        duplicates: dict[int, str] = {}
        for index, k, text in zip(
            rows.tolist(), suspect.tolist(), ids.take(pa.array(rows)).to_pylist(), strict=True
        ):
            if text in self._first:
                duplicates[index] = text
            elif len(self._first) < _REMEMBERED:
                self._first[text] = manifest.place(row + index)
            elif self._seen[k]:
                problems.count_only(1)
            else:
                self._seen[k] = True
        problems.rows(
            list(duplicates), lambda i: self._describe(manifest.place(row + i), duplicates[i])
        )
        problems.end_batch()

    def _describe(self, place: str, text: str) -> str:
        return f"{place}, column id: {shorten(text)} is also the id of {self._first[text]}; ids must be unique, over all files"
