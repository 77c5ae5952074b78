"""Arrow takes any bytes for text when it reads Parquet; here they are checked."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Rows = npt.NDArray[np.int64]


def undecodable(array: pa.Array) -> Rows:
    """Rows that hold text that is not UTF-8, at any depth, or a value that breaks its type."""
    return np.array(_undecodable(array, 0), np.int64)


def _undecodable(array: pa.Array, start: int) -> list[int]:
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        if len(array) == 1:
            return [start]
        half = len(array) // 2
        parts = (
            (0, half),
            (half, len(array)),
        )  # taken, not sliced: a slice of a struct still validates all its children
        return [
            row
            for a, b in parts
            for row in _undecodable(array.take(pa.array(range(a, b), pa.int64())), start + a)
        ]
    return []


def replace(texts: pa.Array, rows: Rows, text: str | None) -> pa.Array:
    """The texts with those of `rows` replaced."""
    if not len(rows):
        return texts
    mask = np.zeros(len(texts), np.bool_)
    mask[rows] = True
    return pc.if_else(pa.array(mask), pa.scalar(text, pa.string()), texts)
