"""What decides how pictures are grouped, as arrays: size, steps, with or without negative prompt, pictures of each row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchgen.manifest.contract import normalise
from batchgen.manifest.files import open_all
from batchgen.settings import Sampling

Ints = npt.NDArray[np.int64]
SHAPE_COLUMNS = ("width", "height", "steps", "negative_prompt", "images")
_CONSTANT_ROWS = 1 << 20


@dataclass(frozen=True, slots=True)
class ShapeColumns:
    """R consecutive rows, in manifest order; the columns of the shape in the order groups are cut by."""

    width: Ints  # R: px
    height: Ints  # R: px
    steps: Ints  # R
    has_negative: npt.NDArray[np.bool_]  # R: a negative prompt that is not empty
    images: Ints  # R: pictures of the row


def image_shapes(files: Sequence[str | Path], sampling: Sampling) -> Iterator[ShapeColumns]:
    """The shapes of all rows in manifest order, in batches, reading the columns of the shape alone.

    A file without any of them is not read at all. To be called after `survey` has found the values valid.

    :raises ManifestError: as `survey` does for unreadable files.
    """
    opened, columns = open_all(files)
    present = [name for name in SHAPE_COLUMNS if name in columns.contract]
    for manifest in opened:
        if present:
            for _, batch in manifest.batches(present):
                yield shapes_of(batch, sampling)
        else:
            for start in range(0, manifest.rows, _CONSTANT_ROWS):
                yield _constant(min(_CONSTANT_ROWS, manifest.rows - start), sampling)
        manifest.close()


def shapes_of(batch: pa.RecordBatch, sampling: Sampling) -> ShapeColumns:
    """The shapes of one batch, columns that are absent or null filled from the job."""
    return ShapeColumns(
        width=integers(batch, "width", sampling.width),
        height=integers(batch, "height", sampling.height),
        steps=integers(batch, "steps", sampling.steps),
        has_negative=_has_negative(batch, sampling.negative_prompt),
        images=integers(batch, "images", sampling.images),
    )


def integers(batch: pa.RecordBatch, name: str, default: int) -> Ints:
    """An integer column of the contract with its nulls filled."""
    if name not in batch.schema.names:
        return np.broadcast_to(np.int64(default), batch.num_rows)
    filled: Ints = (
        normalise(batch.column(name), name).fill_null(default).to_numpy(zero_copy_only=False)
    )
    return filled


def _has_negative(batch: pa.RecordBatch, default: str) -> npt.NDArray[np.bool_]:
    if "negative_prompt" not in batch.schema.names:
        return np.broadcast_to(np.bool_(default != ""), batch.num_rows)
    lengths = pc.binary_length(normalise(batch.column("negative_prompt"), "negative_prompt"))
    filled: Ints = lengths.fill_null(len(default)).to_numpy(zero_copy_only=False)
    return filled > 0


def _constant(rows: int, sampling: Sampling) -> ShapeColumns:
    return ShapeColumns(
        width=np.broadcast_to(np.int64(sampling.width), rows),
        height=np.broadcast_to(np.int64(sampling.height), rows),
        steps=np.broadcast_to(np.int64(sampling.steps), rows),
        has_negative=np.broadcast_to(np.bool_(sampling.negative_prompt != ""), rows),
        images=np.broadcast_to(np.int64(sampling.images), rows),
    )
