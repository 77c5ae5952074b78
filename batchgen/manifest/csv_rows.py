"""CSV as typed batches.

Every field is first read as bytes. Types guessed from a first block, as CSV readers do, would fail on a later block that
does not fit; so contract columns are parsed here, each bad value with its row, and other columns stay text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from batchgen.errors import ManifestError
from batchgen.manifest.contract import COLUMNS, TYPES, agree, find_columns
from batchgen.manifest.problems import Problems, shorten
from batchgen.manifest.utf8 import replace, undecodable

_BLOCK_BYTES = 4 << 20  # a row must fit in it


def csv_schema(files: Sequence[Path]) -> pa.Schema:
    """The columns all files share, contract columns typed, others text.

    :raises ManifestError: not CSV, columns that break the contract or differ.
    """
    layouts = []
    for file in files:
        names = _open(file, {}, []).schema.names
        schema = pa.schema(
            [
                (name, TYPES[COLUMNS[name].kind] if name in COLUMNS else pa.string())
                for name in names
            ]
        )
        layouts.append((file, find_columns(schema, file)))
    return pa.schema(agree(layouts).types())


def csv_batches(file: Path, schema: pa.Schema, problems: Problems) -> Iterator[pa.RecordBatch]:
    """The rows of one file in the order of `schema`; fields that cannot be parsed are reported and null.

    :raises ManifestError: a row with too few or too many fields.
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
        columns = [
            _column(batch.column(field.name), field, file, row, problems) for field in schema
        ]
        problems.end_batch()
        yield pa.RecordBatch.from_arrays(columns, schema=schema)
        row += batch.num_rows


def _open(
    file: Path, types: dict[str, pa.DataType], ragged: list[csv.InvalidRow]
) -> csv.CSVStreamingReader:
    """A reader; a row with too few or too many fields ends in `ragged`."""

    def stop(row: csv.InvalidRow) -> str:
        ragged.append(row)
        return "error"

    parse = csv.ParseOptions(newlines_in_values=True, invalid_row_handler=stop)
    convert = csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True)
    read = csv.ReadOptions(
        block_size=_BLOCK_BYTES, use_threads=False
    )  # one thread: errors name the row
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
    place = (
        f"row {row.number - 2} of {file}" if row.number else str(file)
    )  # pyarrow counts the header as 1
    return ManifestError(
        f"{place}: {row.actual_columns} fields, the header has {row.expected_columns}: {shorten(row.text)}; quote texts that hold commas"
    )


def _column(
    found: pa.Array, field: pa.Field, file: Path, start: int, problems: Problems
) -> pa.Array:
    texts = found.view(pa.string())
    broken = undecodable(texts)
    name = field.name
    problems.rows(
        broken.tolist(),
        lambda i: (
            f"row {start + i} of {file}, column {name}: is not valid UTF-8; save the file as CSV UTF-8"
        ),
    )
    texts = replace(texts, broken, None)
    if field.type == pa.string():
        return texts
    texts = pc.utf8_trim_whitespace(texts)
    try:
        return texts.cast(field.type)
    except pa.ArrowInvalid:
        bad = np.array(
            [i for i in range(len(texts)) if not _parses(texts[i], field.type)], np.int64
        )
    problems.rows(
        bad.tolist(),
        lambda i: (
            f"row {start + i} of {file}, column {name}: {shorten(texts[i].as_py())}; expected {COLUMNS[name].accepted}"
        ),
    )
    return replace(texts, bad, None).cast(field.type)


def _parses(text: pa.Scalar, wanted: pa.DataType) -> bool:
    try:
        text.cast(wanted)
    except pa.ArrowInvalid:
        return False
    return True
