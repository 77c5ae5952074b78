"""What decides how pictures are grouped, as arrays over rows, to cut shards from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchgen.manifest.columns import BY_NAME, used_columns
from batchgen.manifest.contract import normalise
from batchgen.manifest.parquet import ParquetManifest
from batchgen.settings import Sampling

Ints = npt.NDArray[np.int64]
_SHAPE_COLUMNS = ("width", "height", "steps", "negative_prompt", "images")
# Above every width, height and number of steps.
_RADIX = 1 << 15


@dataclass(frozen=True, slots=True)
class ShapeColumns:
    """R consecutive rows, in the manifest's order; each field has R values."""

    # Pixels, as the height.
    width: Ints
    height: Ints
    steps: Ints
    # Whether the row has a negative prompt that is not empty.
    has_negative: npt.NDArray[np.bool_]
    # Pictures of the row.
    images: Ints

    def codes(self) -> Ints:
        """Return each row's shape as one integer, which sorts as width, height, … do."""
        sides = self.width * _RADIX + self.height
        return (sides * _RADIX + self.steps) * 2 + self.has_negative


def decode_shape(code: int) -> tuple[int, int, int, bool]:
    """Return width, height, steps and has_negative of one of `ShapeColumns.codes`."""
    rest, negative = divmod(code, 2)
    sides, steps = divmod(rest, _RADIX)
    return *divmod(sides, _RADIX), steps, bool(negative)


def image_shapes(
    files: Sequence[str | Path], sampling: Sampling, mapping: Mapping[str, str] = BY_NAME
) -> Iterator[ShapeColumns]:
    """Read the shapes of all rows in the manifest's order, in batches, and no other column.

    Call this after `validate_manifest` has found the values valid.

    :param files: Parquet files.
    :param mapping: `[manifest] columns`.

    :raises ManifestError: a file cannot be read.
    """
    for manifest in map(ParquetManifest, files):
        used = used_columns(manifest.schema.names, mapping)
        read = {used[name] for name in _SHAPE_COLUMNS if name in used}
        for _, batch in manifest.batches(sorted(read)):
            yield shapes_of(batch, used, sampling)
        manifest.close()


def shapes_of(batch: pa.RecordBatch, used: Mapping[str, str], sampling: Sampling) -> ShapeColumns:
    """Return the shapes of a batch of rows; what is absent or null is taken from the job.

    :param used: column of the contract → column of the batch.
    """

    def column(
        name: str, default: int, measure: Callable[[pa.Array], pa.Array] | None = None
    ) -> Ints:
        if name not in used:
            return np.broadcast_to(np.int64(default), batch.num_rows)
        found = normalise(batch.column(used[name]), name)
        found = measure(found) if measure else found
        filled: Ints = found.fill_null(default).to_numpy(zero_copy_only=False)
        return filled

    bytes_ = column("negative_prompt", len(sampling.negative_prompt), pc.binary_length)
    return ShapeColumns(
        width=column("width", sampling.width),
        height=column("height", sampling.height),
        steps=column("steps", sampling.steps),
        has_negative=bytes_ > 0,
        images=column("images", sampling.images),
    )
