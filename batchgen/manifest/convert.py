"""Convert CSV or JSON lines to one Parquet file; all later steps read only Parquet.

The Parquet file remembers which rows came from which file, so that later messages name the file
that the user wrote.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.errors import ManifestError, OutputError
from batchgen.manifest.csv_rows import csv_batches, csv_schema
from batchgen.manifest.files import Source, identify_file, kind_of
from batchgen.manifest.jsonl_rows import jsonl_batches, jsonl_schema
from batchgen.manifest.parquet import ORIGINS
from batchgen.manifest.problems import Problems

_Reader = Callable[[Path, pa.Schema, Problems], Iterator[pa.RecordBatch]]


def to_parquet(files: Sequence[Path], destination: Path) -> tuple[Source, ...]:
    """Write the rows of CSV or JSON lines to `destination`, which appears once it is complete.

    CSV: the contract's columns are parsed to their types, others stay text; an empty field is null.
    JSON lines: the contract's columns must have their types; another column is boolean, int64,
    float64 or text if all its values are, else JSON text; an absent key is null.

    :param files: from `find_files`, all of one kind.
    :returns: the identities of the files that were read, for `check_unchanged`.
    :raises ManifestError: with file, row, column and value of the first ten problems.
    :raises OutputError: `destination` cannot be written.
    """
    is_csv = kind_of(files[0]) == "csv"
    problems = Problems()
    schema = csv_schema(files) if is_csv else jsonl_schema(files, problems)
    partial = destination.with_name(f".{destination.name}.{os.getpid()}")
    try:
        rows = _write(partial, schema, files, csv_batches if is_csv else jsonl_batches, problems)
        problems.raise_if_any()
        if not sum(rows):
            names = ", ".join(map(str, files))
            raise ManifestError(f"{names}: no rows; a manifest needs at least one prompt")
        sources = tuple(map(identify_file, files, rows))
        partial.replace(destination)
    except OSError as error:
        raise OutputError(f"{destination}: cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return sources


def _write(
    partial: Path, schema: pa.Schema, files: Sequence[Path], read: _Reader, problems: Problems
) -> list[int]:
    """Write all rows, and return each file's number of rows."""
    rows = [0] * len(files)
    with partial.open("wb") as stream:
        with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
            for number, file in enumerate(files):
                for batch in read(file, schema, problems):
                    writer.write_batch(batch)
                    rows[number] += batch.num_rows
            origins = list(zip(map(str, files), rows, strict=True))
            writer.add_key_value_metadata({ORIGINS: json.dumps(origins).encode()})
        stream.flush()
        os.fsync(stream.fileno())
    return rows
