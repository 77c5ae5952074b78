"""Find and replace bytes that are not UTF-8: Arrow reads any bytes from Parquet as text."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchgen.manifest.problems import Rows


def undecodable(array: pa.Array) -> Rows:
    """Find rows that hold text that is not UTF-8, at any depth, or a value that breaks its type."""
    return np.array(_undecodable(array, 0), np.int64)


def _undecodable(array: pa.Array, start: int) -> list[int]:
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        if len(array) == 1:
            return [start]
        half = len(array) // 2
        # Taken, not sliced: a slice of a struct still validates all its children.
        first = array.take(pa.array(range(half), pa.int64()))
        second = array.take(pa.array(range(half, len(array)), pa.int64()))
        return _undecodable(first, start) + _undecodable(second, start + half)
    return []


def replace(texts: pa.Array, rows: Rows, text: str | None) -> pa.Array:
    """Return `texts` with `text` in `rows`."""
    if not len(rows):
        return texts
    mask = np.zeros(len(texts), np.bool_)
    mask[rows] = True
    return pc.if_else(pa.array(mask), pa.scalar(text, pa.string()), texts)


def encodable(text: str) -> bool:
    """Tell whether `text` can be written as UTF-8: lone surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
