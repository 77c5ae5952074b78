"""CSV as typed batches.

Every field is read as bytes. CSV readers guess types from a first block, and fail on a later block
that does not fit. Here the contract's columns are parsed field by field, so that each bad value is
reported with its row, and other columns stay text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from batchgen.errors import ManifestError
from batchgen.manifest.contract import COLUMNS, agree, find_columns
from batchgen.manifest.problems import ROWS_FROM_0, Problems, Report, place_in, shorten
from batchgen.manifest.utf8 import replace, undecodable

# A row must fit in a block.
_BLOCK_BYTES = 4 << 20


def csv_schema(files: Sequence[Path]) -> pa.Schema:
    """Return the columns that all files share: those of the contract typed, others text.

    :raises ManifestError: a file is not CSV, or columns break the contract or differ.
    """
    found = []
    for file in files:
        names = _open(file, {}, []).schema.names
        types = [COLUMNS[name].type if name in COLUMNS else pa.string() for name in names]
        found.append((file, find_columns(pa.schema(zip(names, types, strict=True)), file)))
    return pa.schema(agree(found))


def csv_batches(file: Path, schema: pa.Schema, problems: Problems) -> Iterator[pa.RecordBatch]:
    """Read one file's rows as `schema`; fields that cannot be parsed are reported and null.

    :raises ManifestError: a row has too few or too many fields.
    """
    ragged: list[csv.InvalidRow] = []
    reader, row = _open(file, dict.fromkeys(schema.names, pa.binary()), ragged), 0
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(file, error, ragged) from None
        with problems.batch(place_in(file, row)) as report:
            columns = [_parse(batch.column(field.name), field, report) for field in schema]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)
        row += batch.num_rows


def _open(
    file: Path, types: dict[str, pa.DataType], ragged: list[csv.InvalidRow]
) -> csv.CSVStreamingReader:
    """Open a reader that stops at a row with too few or too many fields and puts it in `ragged`."""

    def stop(row: csv.InvalidRow) -> str:
        ragged.append(row)
        return "error"

    # pyarrow numbers rows in errors only if one thread reads.
    read = csv.ReadOptions(block_size=_BLOCK_BYTES, use_threads=False)
    parse = csv.ParseOptions(newlines_in_values=True, invalid_row_handler=stop)
    convert = csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True)
    try:
        reader = csv.open_csv(file, read_options=read, parse_options=parse, convert_options=convert)
        reader.schema.names  # noqa: B018  decodes the header
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{file}: the header is not UTF-8: {error}; save the file as CSV UTF-8"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error, ragged) from None
    return reader


def _unreadable(file: Path, error: Exception, ragged: list[csv.InvalidRow]) -> ManifestError:
    if not ragged:
        return ManifestError(f"{file}: cannot be read as CSV: {error}")
    row = ragged[0]
    # pyarrow counts from 1 and counts the header.
    place = f"row {row.number - 2} of {file}" if row.number else str(file)
    return ManifestError(
        f"{place}: {row.actual_columns} fields, the header has {row.expected_columns}: "
        f"{shorten(row.text)}; quote texts that hold commas {ROWS_FROM_0}"
    )


def _parse(fields: pa.Array, column: pa.Field, report: Report) -> pa.Array:
    """Cast one column's fields from bytes to the column's type."""
    texts = fields.view(pa.string())
    broken = undecodable(texts)
    report(column.name, broken, lambda _: "is not valid UTF-8; save the file as CSV UTF-8")
    texts = replace(texts, broken, None)
    if column.type == pa.string():
        return texts
    texts = pc.utf8_trim_whitespace(texts)
    try:
        return texts.cast(column.type)
    except pa.ArrowInvalid:
        wrong = [row for row, text in enumerate(texts) if not _is_a(column.type, text)]
    bad, accepted = np.array(wrong, np.int64), COLUMNS[column.name].accepted
    report(column.name, bad, lambda row: f"{shorten(texts[row].as_py())}; expected {accepted}")
    return replace(texts, bad, None).cast(column.type)


def _is_a(wanted: pa.DataType, text: pa.Scalar) -> bool:
    try:
        text.cast(wanted)
    except pa.ArrowInvalid:
        return False
    return True
