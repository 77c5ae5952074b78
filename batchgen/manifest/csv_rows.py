"""CSV and TSV as typed batches.

Every field is read as text. CSV readers guess types from a first block, and fail on a later block
that does not fit. Here the columns that are read as the contract's are parsed field by field, so
that each bad value is reported with its row, and other columns stay text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchgen.errors import counted
from batchgen.manifest.columns import agree, column_label, find_columns, used_columns
from batchgen.manifest.contract import COLUMNS, stand_in
from batchgen.manifest.csv_dialect import Dialect, find_dialect, read_records
from batchgen.manifest.problems import ColumnReport, Problems, Report, place_in, shorten
from batchgen.manifest.utf8 import encodable

_BATCH_ROWS = 16_384
_BATCH_CHARACTERS = 4 << 20
_INTEGER = r"^-?[0-9]+$"
_DECIMAL = r"^[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?$"
# A number with a point or an exponent was a float, and floats hold all integers below this.
_FLOATS_EXACT_BELOW = 2**53


class CsvReader:
    """The rows of CSV files that have the same columns.

    :raises ManifestError: a file is not CSV, or columns break the contract or differ.
    :raises JobError: `mapping` names columns that are not there.
    """

    def __init__(
        self, files: Sequence[Path], mapping: Mapping[str, str], problems: Problems
    ) -> None:
        self._problems = problems
        self._dialects = {
            file: find_dialect(file, lambda names: "prompt" in used_columns(names, mapping))
            for file in files
        }
        found = [
            (file, find_columns(_schema(dialect.header, mapping), file, mapping))
            for file, dialect in self._dialects.items()
        ]
        agree(found)
        self.schema = _schema(self._dialects[files[0]].header, mapping)
        # Column of the files → column of the contract, the first if it is read as several.
        self._reading = _reading(self.schema.names, mapping)

    def describe(self) -> str:
        """Say how the files are written, for the plan."""
        return "; ".join(dict.fromkeys(one.describe() for one in self._dialects.values()))

    def batches(self, file: Path, first_row: int) -> Iterator[pa.RecordBatch]:
        """Read one file's rows; what cannot be parsed is reported and replaced.

        :param first_row: the number of the file's first row over all files.
        :raises ManifestError: a quote is not closed, or the file cannot be read.
        """
        dialect, start = self._dialects[file], 0
        names = dialect.header
        for records in _batches_of_records(file, dialect.delimiter):
            place = place_in(file, start)
            rows = [fields for _, fields in records]
            for i, (line, fields) in enumerate(records):
                if len(fields) != len(names):
                    fault = _ragged(line, fields, dialect)
                    self._problems.add(f"{place(i)}: {fault}", first_row + start + i)
                    rows[i] = [stand_in(self._reading.get(name, "")) or "" for name in names]
            fields_of = dict(zip(names, zip(*rows, strict=True), strict=True))
            with self._problems.batch(place, first_row + start) as report:
                columns = [
                    self._parse(fields_of[field.name], field, report) for field in self.schema
                ]
            yield pa.RecordBatch.from_arrays(columns, schema=self.schema)
            start += len(rows)

    def _parse(self, fields: Sequence[str], column: pa.Field, report: Report) -> pa.Array:
        """Make one column's fields an array; an empty field is null."""
        name = self._reading.get(column.name, "")
        told = partial(report, column_label(name or column.name, column.name))
        texts = _texts(fields, stand_in(name), told)
        return texts if column.type == pa.string() else _numbers(texts, name, told)


def _schema(names: Sequence[str], mapping: Mapping[str, str]) -> pa.Schema:
    """Return the columns' types: those that are read have the contract's, others are text."""
    reading = _reading(names, mapping)
    return pa.schema(
        [(name, COLUMNS[reading[name]].type if name in reading else pa.string()) for name in names]
    )


def _reading(names: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Say as what columns are read: column of the files → column of the contract, the first."""
    used = used_columns(names, mapping)
    return {column: name for name, column in reversed(used.items())}


def _batches_of_records(file: Path, delimiter: str) -> Iterator[list[tuple[int, list[str]]]]:
    """Read the records after the header in lists of bounded size, each with its line."""
    batch: list[tuple[int, list[str]]] = []
    characters = 0
    for line, fields in islice(read_records(file, delimiter), 1, None):
        batch.append((line, fields))
        characters += sum(map(len, fields))
        if len(batch) == _BATCH_ROWS or characters > _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _ragged(line: int, fields: Sequence[str], dialect: Dialect) -> str:
    text = shorten(dialect.delimiter.join(fields))
    return (
        f"{counted(len(fields), 'field')} in line {line}, the header has {len(dialect.header)}: "
        f"{text}; "
        f"quote texts that hold {dialect.separators}"
    )


def _texts(fields: Sequence[str], instead: str | None, report: ColumnReport) -> pa.Array:
    """Make fields an array of texts; those that are not UTF-8 are reported and replaced."""
    texts = [text or None for text in fields]
    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:
        broken = [i for i, text in enumerate(fields) if not encodable(text)]
    report(np.array(broken, np.int64), lambda _: "is not valid UTF-8; save the file as CSV UTF-8")
    for i in broken:
        texts[i] = instead
    return pa.array(texts, pa.string())


def _numbers(texts: pa.Array, name: str, report: ColumnReport) -> pa.Array:
    """Parse texts as numbers of the contract's column `name`; others are reported and null."""
    wanted = COLUMNS[name].type
    is_integer = wanted == pa.int64()
    texts = pc.utf8_trim_whitespace(texts)
    if pc.all(pc.match_substring_regex(texts, _INTEGER if is_integer else _DECIMAL)).as_py():
        # Integers over 2^63-1 are found below.
        with suppress(pa.ArrowInvalid):
            return texts.cast(wanted)
    parse, values, bad = _integer if is_integer else _float, [], []
    for row, text in enumerate(texts.to_pylist()):
        try:
            values.append(parse(text) if text else None)
        except ValueError:
            values.append(None)
            bad.append(row)
    accepted = COLUMNS[name].accepted
    report(
        np.array(bad, np.int64), lambda row: f"{shorten(texts[row].as_py())}; expected {accepted}"
    )
    return pa.array(values, wanted)


def _integer(text: str) -> int | None:
    """Return an integer, which may be written as pandas writes its floats: 7.0; null for NaN.

    :raises ValueError: it is none, or may have been rounded.
    """
    if text.lower() == "nan":
        return None
    if re.match(_DECIMAL, text) is None:
        raise ValueError(text)
    number = Decimal(text)
    written_as_integer = re.match(r"^[+-]?[0-9]+$", text) is not None
    limit = 2**63 if written_as_integer else _FLOATS_EXACT_BELOW
    if number.copy_abs() >= limit or number != number.to_integral_value():
        raise ValueError(text)
    return int(number)


def _float(text: str) -> float | None:
    """Return a number; null for NaN.

    :raises ValueError: it is none.
    """
    if text.lower() == "nan":
        return None
    if re.match(_DECIMAL, text) is None:
        raise ValueError(text)
    return float(text)
