"""CSV and JSONL → one Parquet file, once, streaming: everything after reads only Parquet.

The Parquet file remembers which rows came from which file, so that later messages name the file the user wrote.
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
from batchgen.manifest.files import ORIGINS, Source, identify_file, kind_of
from batchgen.manifest.jsonl_rows import jsonl_batches, jsonl_schema
from batchgen.manifest.problems import Problems

_Reader = Callable[[Path, pa.Schema, Problems], Iterator[pa.RecordBatch]]


def to_parquet(files: Sequence[Path], destination: Path) -> tuple[Source, ...]:
    """Write the rows of CSV or JSONL files to `destination`, which appears only when it is complete.

    CSV: contract columns are parsed to their types, all others stay text, an empty field is null.
    JSONL: contract columns must have their types; another column is boolean, int64, float64 or text where all its
    values are, else JSON text; an absent key is null.

    :param files: from `find_files`, all of one kind.
    :returns: the identity of the files that were read, for `check_unchanged`.
    :raises ManifestError: with file, row, column and value of the first ten problems.
    :raises OutputError: `destination` cannot be written.
    """
    is_csv = kind_of(files[0]) == "csv"
    problems = Problems()
    schema = csv_schema(files) if is_csv else jsonl_schema(files, problems)
    problems.raise_if_any()
    partial = destination.with_name(f".{destination.name}.{os.getpid()}")
    try:
        origins = _write(partial, schema, files, csv_batches if is_csv else jsonl_batches, problems)
        problems.raise_if_any()
        if not sum(rows for _, rows in origins):
            raise ManifestError(
                f"{', '.join(map(str, files))}: no rows; a manifest needs at least one prompt"
            )
        sources = tuple(
            identify_file(file, rows) for file, (_, rows) in zip(files, origins, strict=True)
        )
        partial.replace(destination)
    except OSError as error:
        raise OutputError(f"{destination}: cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return sources


def _write(
    partial: Path, schema: pa.Schema, files: Sequence[Path], read: _Reader, problems: Problems
) -> list[tuple[str, int]]:
    origins = []
    with partial.open("wb") as stream:
        with pq.ParquetWriter(stream, schema, compression="zstd") as writer:
            for file in files:
                rows = 0
                for batch in read(file, schema, problems):
                    writer.write_batch(batch)
                    rows += batch.num_rows
                origins.append((str(file), rows))
            writer.add_key_value_metadata({ORIGINS: json.dumps(origins).encode()})
        stream.flush()
        os.fsync(stream.fileno())
    return origins
