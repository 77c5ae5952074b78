"""Arrow files (`.arrow`, `.feather`, `.ipc`, those of `datasets.save_to_disk`) as batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.errors import ManifestError, one_line
from batchgen.manifest.columns import agree, find_columns
from batchgen.manifest.contract import fill_type, plain
from batchgen.manifest.problems import Problems
from batchgen.manifest.signatures import what_it_is

_BATCH_ROWS = 16_384
_FILE_MAGIC, _FEATHER_1_MAGIC = b"ARROW1", b"FEA1"
_AGAIN = "Truncated, or still being written? Copy it again"


class ArrowReader:
    """The rows of Arrow files that have the same columns.

    :raises ManifestError: a file cannot be read, columns break the contract or differ, or Parquet
        cannot hold one.
    :raises JobError: `mapping` names columns that are not there.
    """

    # The values are checked later, like those of every Parquet file.
    def __init__(self, files: Sequence[Path], mapping: Mapping[str, str], _: Problems) -> None:
        found: dict[Path, pa.Schema] = {}
        for file in files:
            with _open(file) as (schema, _batches):
                found[file] = schema
        columns = agree(
            [(file, find_columns(schema, file, mapping)) for file, schema in found.items()]
        )
        types = dict(columns.travelling)
        for column in columns.used.values():
            types[column] = _common_type(column, found)
        self.schema = pa.schema([(name, types[name]) for name in found[files[0]].names])
        _check_storable(self.schema, files[0])

    def describe(self) -> str:
        """Say how the files are read, for the plan."""
        return "Arrow"

    def batches(self, file: Path, _: int) -> Iterator[pa.RecordBatch]:
        """Read one file's rows.

        :raises ManifestError: a batch is damaged.
        """
        row = 0
        with _open(file) as (_, batches):
            for batch in batches:
                _check_sound(batch, file, row)
                for start in range(0, batch.num_rows, _BATCH_ROWS):
                    part = batch.slice(start, _BATCH_ROWS)
                    columns = [fill_type(part.column(one.name), one.type) for one in self.schema]
                    yield pa.RecordBatch.from_arrays(columns, schema=self.schema)
                row += batch.num_rows


@contextmanager
def _open(file: Path) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """Open an Arrow file, in the file or in the stream format.

    :raises ManifestError: while it is opened or read inside: it is damaged, or none.
    """
    try:
        with pa.OSFile(str(file)) as source:
            magic = source.read(len(_FILE_MAGIC))
            if magic.startswith(_FEATHER_1_MAGIC):
                raise ManifestError(
                    f"{file}: Feather version 1; write it as Parquet, or as Feather version 2"
                )
            source.seek(0)
            if magic == _FILE_MAGIC:
                opened = pa.ipc.open_file(source)
                batches = (opened.get_batch(i) for i in range(opened.num_record_batches))
                yield opened.schema, batches
            else:
                with pa.ipc.open_stream(source) as stream:
                    yield stream.schema, iter(stream)
    except (pa.ArrowException, OSError) as error:
        what = what_it_is(file, "Arrow")
        told = f"it is {what}" if what else f"{one_line(str(error))}. {_AGAIN}"
        raise ManifestError(f"{file}: cannot be read as Arrow: {told}") from None


def _common_type(column: str, schemas: Mapping[Path, pa.Schema]) -> pa.DataType:
    """Return the type of a column that is read, in all files.

    :raises ManifestError: two files have different ones.
    """
    types = {file: plain(schema.field(column).type) for file, schema in schemas.items()}
    valued = {file: type_ for file, type_ in types.items() if not pa.types.is_null(type_)}
    first_file, wanted = next(iter({**valued, **types}.items()))
    for file, type_ in valued.items():
        if type_ != wanted:
            raise ManifestError(
                f"{file}, column {one_line(column)}: type {type_}, but {wanted} in {first_file}; "
                "files of one manifest must agree on types"
            )
    return wanted


def _check_storable(schema: pa.Schema, file: Path) -> None:
    """Check that Parquet can hold each column.

    :raises ManifestError: it cannot.
    """
    for field in schema:
        try:
            pq.ParquetWriter(pa.BufferOutputStream(), pa.schema([field])).close()
        except pa.ArrowException as error:
            raise ManifestError(
                f"{file}, column {one_line(field.name)}: Parquet cannot hold "
                f"{one_line(str(field.type))}: {one_line(str(error))}; write the table without it"
            ) from None


def _check_sound(batch: pa.RecordBatch, file: Path, row: int) -> None:
    """Check every offset of a batch, before anything follows one out of the file's memory.

    :raises ManifestError: the batch is damaged.
    """
    try:
        batch.validate(full=True)
    except pa.ArrowException as error:
        raise ManifestError(
            f"{file}: corrupt data, or text that is not UTF-8, at or after row {row}: "
            f"{one_line(str(error))}. Copy or write the file again."
        ) from None
