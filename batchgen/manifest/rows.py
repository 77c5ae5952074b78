r"""Read rows and expand them to pictures: what a worker does for its shard.

**Seeds.** A row's seed is its column `seed`. Where that is absent or null, it is a hash:

    blake2b(b"batchgen\0" + run_seed + b"\0id\0" + id, digest_size=8)                 with an id
    blake2b(b"batchgen\0" + run_seed + b"\0row\0" + row, digest_size=8)    without, or if it is ""

`run_seed` and `row`, the row's number over all files, are written in decimal, `id` in UTF-8. The
digest's first 63 bits, big-endian, are the seed. Picture j of a row has the seed
(row's seed + j) mod 2^63. If it is made again with another seed, in the run's generation g, that is
the first 63 bits of

    blake2b(b"batchgen\0" + seed + b"\0generation\0" + g, digest_size=8)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from batchgen.errors import ManifestError, PlanChanged, counted
from batchgen.manifest.columns import BY_NAME, used_columns
from batchgen.manifest.contract import (
    COLUMNS,
    fill_type,
    join_types,
    lacks_values,
    normalise,
    plain,
)
from batchgen.manifest.extras import json_rows
from batchgen.manifest.files import Source
from batchgen.manifest.json_types import JsonType
from batchgen.manifest.parquet import ParquetManifest
from batchgen.settings import MAX_SEED, Sampling


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture to make: everything that decides how it looks, and its name."""

    # Running number of the picture in the run: nine digits in file names.
    key: int
    # Number of the picture's row, counted from 0 over all files of the manifest.
    row: int
    # Number of the picture among those of its row, from 0.
    image: int
    # The row's id, "" without one.
    id: str
    prompt: str
    # "" for none.
    negative_prompt: str
    # 0 to 2^63-1, of this picture alone.
    seed: int
    # Pixels, as the height.
    width: int
    height: int
    # Denoising steps.
    steps: int
    # The guidance scale that the model takes as an input.
    guidance: float
    # The scale of classifier-free guidance, used only with a negative prompt.
    true_cfg: float
    # The row's columns outside the contract as one JSON object, "{}" without any. In runs that
    # batchgen 0.2 and older has planned it is that object as a JSON string.
    extra: str


@dataclass(frozen=True, slots=True)
class ManifestRows:
    """Consecutive rows of a manifest."""

    # The contract's columns by its names, as string, int64 and float64.
    contract: pa.Table
    # The columns that travel along, without encodings.
    travelling: pa.Table


def read_rows(
    sources: Sequence[Source], start_row: int, rows: int, mapping: Mapping[str, str] = BY_NAME
) -> ManifestRows:
    """Read `rows` rows from `start_row` on, numbered over all files; no other row group is read.

    :param mapping: `[manifest] columns`.
    :raises PlanChanged: a file has another number of rows or bytes than planned, or is gone.
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
        there = sum(source.rows for source in sources)
        raise ValueError(f"{rows} rows wanted beyond the {there} of the manifest")
    names = batches[0].schema.names
    used = used_columns(names, mapping)
    read = set(used.values())
    travelling = [name for name in names if name not in read]
    return ManifestRows(
        pa.Table.from_batches([_contract(batch, used) for batch in batches]),
        _travelling([batch.select(travelling) for batch in batches], sources),
    )


def _contract(batch: pa.RecordBatch, used: Mapping[str, str]) -> pa.RecordBatch:
    columns = {name: normalise(batch.column(column), name) for name, column in used.items()}
    return pa.RecordBatch.from_pydict(columns)


def _travelling(batches: Sequence[pa.RecordBatch], sources: Sequence[Source]) -> pa.Table:
    """Join batches of travelling columns, whose types agree but for columns without any value.

    Such a column takes its type from another file, so that all shards' metadata agree.
    """
    names = batches[0].schema.names
    if not names:
        return pa.Table.from_batches(batches)
    schemas = chain((batch.schema for batch in batches), map(_schema, sources))
    types = dict.fromkeys(names, pa.null())
    while any(map(lacks_values, types.values())) and (schema := next(schemas, None)):
        for name in filter(lambda one: lacks_values(types[one]), names):
            types[name] = join_types(types[name], plain(schema.field(name).type))
    wanted = pa.schema(list(types.items()))
    filled = [
        [
            fill_type(column, type_)
            for column, type_ in zip(batch.select(names).columns, types.values(), strict=True)
        ]
        for batch in batches
    ]
    return pa.Table.from_batches(
        [pa.RecordBatch.from_arrays(arrays, schema=wanted) for arrays in filled]
    )


def _read(source: Source, start_row: int, rows: int) -> Iterator[pa.RecordBatch]:
    manifest = _open(source)
    for _, batch in manifest.batches(manifest.schema.names, start_row, rows):
        yield batch
    manifest.close()


def _schema(source: Source) -> pa.Schema:
    manifest = _open(source)
    manifest.close()
    return manifest.schema


def _open(source: Source) -> ParquetManifest:
    path = source.path
    try:
        manifest = ParquetManifest(path)
    except ManifestError:
        if Path(path).exists():
            raise
        raise PlanChanged(f"{path}: the manifest this run was planned from is gone") from None
    for now, then, what in (
        (manifest.rows, source.rows, "row"),
        # Other prompts in as many rows; to hash the file for every shard would take too long.
        (Path(path).stat().st_size, source.bytes, "byte"),
    ):
        if now != then:
            raise PlanChanged(
                f"{path}: the manifest changed since planning: "
                f"{counted(then, what)} then, {now:,} now"
            )
    return manifest


def pictures(
    rows: ManifestRows,
    *,
    first_row: int,
    first_key: int,
    skip: int,
    count: int,
    sampling: Sampling,
    json_types: Mapping[str, JsonType] | None = None,
) -> list[Picture]:
    """Expand rows to their pictures, in the order of keys.

    :param rows: from `read_rows`, beginning at row `first_row` of the manifest.
    :param first_key: key of the first picture returned.
    :param skip: pictures of the first row to leave out.
    :param count: pictures to return; the rows must hold them.
    :param sampling: the job's values for what a row leaves out.
    :param json_types: of the travelling columns in JSON; None: each value has its own.
    """
    made: list[Picture] = []
    for row, images, seed, values in _rows(rows, first_row, sampling, json_types):
        for image in range(skip, min(images, skip + count - len(made))):
            key, its_seed = first_key + len(made), (seed + image) & MAX_SEED
            made.append(Picture(key, row, image, seed=its_seed, **values))
        skip = 0
    if len(made) != count:
        raise ValueError(
            f"{count} pictures wanted of {rows.contract.num_rows} rows that hold {len(made)}"
        )
    return made


def listed_pictures(
    rows: ManifestRows,
    *,
    first_row: int,
    places: Iterable[tuple[int, int, int]],
    sampling: Sampling,
    json_types: Mapping[str, JsonType] | None = None,
) -> list[Picture]:
    """Some pictures of rows, in the order of keys; parameters as of `pictures`.

    :param places: key, row and number in the row of each, in ascending order.
    """
    of_row: dict[int, list[tuple[int, int]]] = {}
    for key, row, image in places:
        of_row.setdefault(row, []).append((key, image))
    return [
        Picture(key, row, image, seed=(seed + image) & MAX_SEED, **values)
        for row, images, seed, values in _rows(rows, first_row, sampling, json_types)
        for key, image in of_row.get(row, ())
        if image < images
    ]


def _rows(
    rows: ManifestRows,
    first_row: int,
    sampling: Sampling,
    json_types: Mapping[str, JsonType] | None,
) -> Iterator[tuple[int, int, int, dict[str, Any]]]:
    """Of each row its number, its pictures, its seed, and what its pictures have in common."""
    columns = {name: _column(rows.contract, name, sampling) for name in COLUMNS}
    for i, extra in enumerate(json_rows(rows.travelling, rows.contract.num_rows, json_types)):
        values = {name: column[i] for name, column in columns.items()}
        images, seed, row = values.pop("images"), values.pop("seed"), first_row + i
        if seed is None:
            seed = row_seed(sampling.seed, values["id"], row)
        yield row, images, seed, {**values, "extra": extra}


def another_seed(seed: int, generation: int) -> int:
    """The seed of a picture that is made again with another one: 63 bits of a hash of both."""
    text = b"batchgen\0%d\0generation\0%d" % (seed, generation)
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def _column(table: pa.Table, name: str, sampling: Sampling) -> list[Any]:
    """Return a column of the contract with the job's default in the place of nulls."""
    # A seed of None is to be hashed: `sampling.seed` is the run's.
    default = {"id": "", "seed": None}.get(name, getattr(sampling, name, None))
    if name not in table.schema.names:
        return [default] * table.num_rows
    return [default if value is None else value for value in table.column(name).to_pylist()]


def row_seed(run_seed: int, row_id: str, row: int) -> int:
    """Return the seed of a row that has none: 63 bits, by the formula above."""
    name = b"id\0" + row_id.encode() if row_id else b"row\0" + str(row).encode()
    text = b"batchgen\0" + str(run_seed).encode() + b"\0" + name
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1
