"""Convert text tables and Arrow files to one Parquet file; all later steps read only Parquet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.errors import ManifestError, OutputError
from batchgen.manifest.arrow_rows import ArrowReader
from batchgen.manifest.columns import BY_NAME
from batchgen.manifest.csv_rows import CsvReader
from batchgen.manifest.files import Source, identify_file
from batchgen.manifest.find import kind_of
from batchgen.manifest.jsonl_rows import JsonlReader
from batchgen.manifest.parquet import Origins
from batchgen.manifest.problems import Problems
from batchgen.manifest.txt_rows import TxtReader

# From so many columns on, setting up zstd for each of them takes longer than all else.
_WIDE = 1000


class _Reader(Protocol):
    """Reads files of one kind."""

    # The columns of all batches, under the files' names.
    schema: pa.Schema

    def batches(self, file: Path, first_row: int) -> Iterator[pa.RecordBatch]:
        """Read one file; `first_row` is the number of its first row over all files."""

    def describe(self) -> str:
        """Say how the files are read."""


_READERS: dict[str, Callable[[Sequence[Path], Mapping[str, str], Problems], _Reader]] = {
    "csv": CsvReader,
    "jsonl": JsonlReader,
    "txt": TxtReader,
    "arrow": ArrowReader,
}


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was converted."""

    parquet: Path
    # The files that were read.
    sources: tuple[Source, ...]
    # The same as the user named them, each with its number of rows, for messages.
    origins: Origins
    # How they were read, for people: "CSV separated by semicolons, UTF-8".
    described: str


def to_parquet(
    files: Sequence[Path],
    destination: Path,
    problems: Problems,
    mapping: Mapping[str, str] = BY_NAME,
) -> Conversion:
    """Write the rows of files to `destination`, which appears once it is complete.

    CSV: the columns that are read as the contract's are parsed to its types, others stay text; an
    empty field is null. JSON lines: columns that are read must have the contract's types; another
    column is boolean, int64, float64 or text if all its values are, else JSON text; an absent key
    is null. Columns keep their names.

    :param files: from `find_files`, all of one kind, which is not Parquet.
    :param problems: takes what cannot be parsed. Something that is accepted stands in its place, so
        that the other problems of the same rows can be found in `destination`.
    :param mapping: `[manifest] columns`.
    :raises ManifestError: a file cannot be read, or columns break the contract.
    :raises JobError: `mapping` names columns that are not there.
    :raises OutputError: `destination` cannot be written.
    """
    reader = _READERS[kind_of(files[0])](files, mapping, problems)
    partial = destination.with_name(f".{destination.name}.{os.getpid()}")
    try:
        rows = _write(partial, reader, files, problems)
        sources = tuple(map(identify_file, files, rows))
        partial.replace(destination)
    except OSError as error:
        raise OutputError(f"{destination}: cannot be written: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    origins = list(zip(map(str, files), rows, strict=True))
    return Conversion(destination, sources, origins, reader.describe())


def _write(partial: Path, reader: _Reader, files: Sequence[Path], problems: Problems) -> list[int]:
    """Write all rows, and return each file's number of rows.

    :raises ManifestError: a file cannot be read on, with the problems before.
    """
    rows: list[int] = []
    with partial.open("wb") as stream:
        compression = "zstd" if len(reader.schema) < _WIDE else "snappy"
        with pq.ParquetWriter(stream, reader.schema, compression=compression) as writer:
            for file in files:
                before = sum(rows)
                rows.append(0)
                try:
                    for batch in reader.batches(file, before):
                        writer.write_batch(batch)
                        rows[-1] += batch.num_rows
                except ManifestError as unreadable:
                    problems.add(str(unreadable), sum(rows))
                    problems.raise_if_any()
        stream.flush()
        os.fsync(stream.fileno())
    return rows
