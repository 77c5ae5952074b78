"""Find ids that two rows share.

The first pass over the rows keeps one 64-bit hash an id. A second pass compares as texts only the
ids whose hashes repeat.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from batchgen.manifest.columns import column_label
from batchgen.manifest.contract import normalise
from batchgen.manifest.parquet import ParquetManifest
from batchgen.manifest.problems import Place, Problems, Rows, shorten
from batchgen.manifest.utf8 import replace, undecodable

# Distinct ids compared as texts; repetitions of further ones are counted by their hashes alone.
_REMEMBERED = 100_000
_UNIQUE = "ids must be unique, over all files"


def hash_ids(ids: pa.Array) -> Rows:
    """Return one hash a row, 0 where the id is null or empty.

    Python salts its hash in every process, so that no manifest can be built to collide.
    """
    texts = ids.to_pylist()
    return np.fromiter(((hash(text) or 1) if text else 0 for text in texts), np.int64, len(texts))


def find_duplicates(
    opened: Sequence[tuple[int, ParquetManifest]],
    column: str,
    hashes: array[int],
    problems: Problems,
) -> None:
    """Report every row whose id an earlier row has, with the places of both.

    :param opened: files, each with the number of its first row over all files.
    :param column: the files' column that is read as the id.
    :param hashes: `hash_ids` of all rows; they are sorted in place.
    """
    ordered: Rows = np.asarray(hashes)
    ordered.sort()
    suspects = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    search = _Search(column_label("id", column), suspects[suspects != 0], problems)
    for start, manifest in opened if len(search.suspects) else ():
        for first_row, batch in manifest.batches([column]):
            ids = normalise(batch.column(column), "id")
            ids = replace(ids, undecodable(ids), None)
            search.read(ids, manifest.place_from(first_row), start + first_row)


class _Search:
    """The second pass over the ids: where each suspect one stands first."""

    def __init__(self, column: str, suspects: Rows, problems: Problems) -> None:
        self._column = column
        self.suspects = suspects
        self._problems = problems
        self._first: dict[str, str] = {}
        # Whether a hash occurred among the ids that are not remembered as texts.
        self._occurred = np.zeros(len(suspects), np.bool_)

    def read(self, ids: pa.Array, place: Place, first_row: int) -> None:
        """Report the repetitions among the ids of one batch, whose rows begin at `first_row`."""
        hashes = hash_ids(ids)
        rows = np.flatnonzero(np.isin(hashes, self.suspects))
        indices = np.searchsorted(self.suspects, hashes[rows])
        texts = ids.take(rows).to_pylist()
        again: dict[int, str] = {}
        for row, index, text in zip(rows.tolist(), indices.tolist(), texts, strict=True):
            if text in self._first:
                again[row] = text
            elif len(self._first) < _REMEMBERED:
                self._first[text] = place(row)
            else:
                self._problems.count += bool(self._occurred[index])
                self._occurred[index] = True

        def describe(row: int) -> str:
            first = self._first[again[row]]
            return f"{shorten(again[row])} is also the id of {first}; {_UNIQUE}"

        with self._problems.batch(place, first_row) as report:
            report(self._column, np.array(list(again), np.int64), describe)
