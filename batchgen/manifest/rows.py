r"""Rows → pictures: what a worker reads for its shard.

**Seeds.** A row's seed is its column; where that is absent or null it is the first 63 bits of
`blake2b(b"batchgen\0" + run seed + b"\0id\0" + id, digest_size=8)`, big-endian, the run seed in decimal, the id in UTF-8;
without an id (or with an empty one) `b"\0row\0"` and the row's index in decimal stand in the place of `b"\0id\0"` and the id.
Picture j of the row has seed (row's seed + j) mod 2^63.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from batchgen.errors import ManifestError, PlanChanged
from batchgen.manifest.contract import COLUMNS, normalise, unencode
from batchgen.manifest.extras import extra_columns, json_rows
from batchgen.manifest.files import ParquetManifest, Source
from batchgen.manifest.picture import Picture
from batchgen.settings import MAX_SEED, Sampling


def read_rows(sources: Sequence[Source], start_row: int, rows: int) -> pa.Table:
    """Rows `start_row …` of the manifest, numbered over all its files; contract columns as string, int64 and float64.

    Only the row groups that hold them are read.

    :raises PlanChanged: a file has another number of rows than planned, or is gone.
    :raises ManifestError: a file cannot be read.
    """
    batches: list[pa.RecordBatch] = []
    for source in sources:
        if start_row < source.rows and rows > 0:
            taken = min(rows, source.rows - start_row)
            batches += _read(source, start_row, taken)
            rows -= taken
        start_row = max(start_row - source.rows, 0)
    if rows > 0 or not batches:
        raise ValueError(
            f"{rows} rows wanted beyond the {sum(source.rows for source in sources)} of the manifest"
        )
    first = batches[0].schema.names
    return pa.Table.from_batches([batch.select(first) for batch in batches])


def pictures(
    table: pa.Table, first_row: int, first_key: int, skip: int, count: int, sampling: Sampling
) -> list[Picture]:
    """Expand rows to their pictures, in order of keys.

    :param table: from `read_rows`, beginning at row `first_row` of the manifest.
    :param first_key: key of the first picture returned.
    :param skip: pictures of the first row to leave out.
    :param count: pictures to return; the table must hold them.
    """
    columns = {name: _column(table, name, default) for name, default in _defaults(sampling).items()}
    texts = json_rows(extra_columns(table, typed_json=True))
    made: list[Picture] = []
    for i in range(table.num_rows):
        values = {name: column[i] for name, column in columns.items()}
        images, seed = values.pop("images"), values.pop("seed")
        if seed is None:
            seed = row_seed(sampling.seed, values["id"], first_row + i)
        for j in range(skip, min(images, skip + count - len(made))):
            made.append(
                Picture(
                    key=first_key + len(made),
                    row=first_row + i,
                    image=j,
                    seed=(seed + j) & MAX_SEED,
                    extra=texts[i],
                    **values,
                )
            )
        skip = 0
    if len(made) != count:
        raise ValueError(f"{count} pictures wanted of {table.num_rows} rows that hold {len(made)}")
    return made


def row_seed(run_seed: int, row_id: str, row: int) -> int:
    """The seed of a row without one: 63 bits, by the formula above."""
    name = b"id\0" + row_id.encode() if row_id else b"row\0" + str(row).encode()
    digest = hashlib.blake2b(
        b"batchgen\0" + str(run_seed).encode() + b"\0" + name, digest_size=8
    ).digest()
    return int.from_bytes(digest, "big") >> 1


def _read(source: Source, start_row: int, rows: int) -> Iterator[pa.RecordBatch]:
    try:
        manifest = ParquetManifest(source.path)
    except ManifestError:
        if Path(source.path).exists():
            raise
        raise PlanChanged(
            f"{source.path}: the manifest this run was planned from is gone"
        ) from None
    if manifest.rows != source.rows:
        raise PlanChanged(
            f"{source.path}: the manifest changed since planning: {source.rows} rows then, {manifest.rows} now"
        )
    names = manifest.schema.names
    for _, batch in manifest.batches(names, start_row, rows):
        arrays = [
            normalise(batch.column(name), name) if name in COLUMNS else unencode(batch.column(name))
            for name in names
        ]
        yield pa.RecordBatch.from_arrays(arrays, names=names)
    manifest.close()


def _defaults(sampling: Sampling) -> dict[str, Any]:
    """What a null or absent column means; a seed of None is to be hashed."""
    defaults: dict[str, Any] = dict.fromkeys(COLUMNS) | {"id": ""}
    for name in ("negative_prompt", "width", "height", "steps", "guidance", "true_cfg", "images"):
        defaults[name] = getattr(sampling, name)
    return defaults


def _column(table: pa.Table, name: str, default: Any) -> list[Any]:
    if name not in table.schema.names:
        return [default] * table.num_rows
    return [default if value is None else value for value in table.column(name).to_pylist()]
