"""JSON lines as typed batches: one JSON object a line, as RFC 8259 defines JSON (no NaN).

The files are read twice. The first reading finds the type of each column outside the contract over
all lines of all files: a type guessed from the first lines fails on a later one. An absent key is
null, because keys belong to rows here and not to files.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from batchgen.errors import ManifestError, shell_command
from batchgen.manifest.columns import column_label, find_columns, used_columns
from batchgen.manifest.contract import COLUMNS, stand_in
from batchgen.manifest.extras import json_text
from batchgen.manifest.json_line import parse_line
from batchgen.manifest.problems import Problems, Report, name_files, place_in, shorten
from batchgen.manifest.text_file import encoding_of, open_text
from batchgen.manifest.utf8 import encodable

_LINES = 16_384
# Floats hold all integers up to here.
_EXACT = 2**53

# The kinds of values (see `_kind`) that columns of a type hold, null aside.
_HELD: dict[pa.DataType, set[str]] = {
    pa.bool_(): {"bool"},
    pa.int64(): {"int", "long"},
    pa.float64(): {"int", "float"},
    pa.string(): {"text"},
}
# Columns of the contract in which 7.0 means 7.
_WHOLE = {name for name, column in COLUMNS.items() if column.type == pa.int64()} | {"id"}
_TEXT = "a text without lone surrogates (\\ud800 … \\udfff)"


class JsonlReader:
    """The rows of files of JSON lines, with the columns of all files.

    Columns that are read have the contract's types. Others are boolean, int64, float64 or text if
    all their values are, else JSON text.

    :raises ManifestError: no row has a `prompt`, or columns break the contract.
    :raises JobError: `mapping` names columns that are not there.
    """

    def __init__(
        self, files: Sequence[Path], mapping: Mapping[str, str], problems: Problems
    ) -> None:
        self._problems = problems
        self._encodings = [encoding_of(file) for file in files]
        for file in files:
            _refuse_array(file)
        kinds = _kinds(files)
        used = used_columns(list(kinds), mapping)
        # Column of the files → column of the contract, the first if it is read as several.
        self._reading = {column: name for name, column in reversed(used.items())}
        if "prompt" not in used:
            self._report_bad_lines(files)
        self.schema = pa.schema(
            [
                (name, COLUMNS[self._reading[name]].type if name in self._reading else _type(held))
                for name, held in kinds.items()
            ]
        )
        find_columns(self.schema, name_files(files), mapping)

    def describe(self) -> str:
        """Say how the files are read, for the plan."""
        return f"JSON lines, {', '.join(dict.fromkeys(self._encodings))}"

    def batches(self, file: Path, first_row: int) -> Iterator[pa.RecordBatch]:
        """Read one file's rows; what cannot be read is reported and replaced.

        :param first_row: the number of the file's first row over all files.
        :raises ManifestError: the file cannot be read.
        """
        lines, start = _lines(file), 0
        while chunk := list(islice(lines, _LINES)):
            place, at = place_in(file, start), first_row + start
            rows = [self._parse(line, place(i), at + i) for i, line in enumerate(chunk)]
            with self._problems.batch(place, at) as report:
                columns = [self._column(rows, one, report) for one in self.schema]
            yield pa.RecordBatch.from_arrays(columns, schema=self.schema)
            start += len(chunk)

    def _report_bad_lines(self, files: Sequence[Path]) -> None:
        """Report lines without a JSON object: where they stand, there may be the columns missed.

        :raises ManifestError: there are such lines.
        """
        row = 0
        for file in files:
            for number, line in enumerate(_lines(file)):
                self._parse(line, f"row {number} of {file}", row)
                row += 1
        self._problems.raise_if_any()

    def _parse(self, line: str, place: str, row: int) -> dict[str, Any]:
        """Parse a line; one that is not a JSON object is reported and replaced."""
        try:
            return parse_line(line)
        except ValueError as error:
            # Python's remedy for long integers is none for people.
            fault = str(error).partition("; use sys.")[0]
            self._problems.add(f"{place}: not a JSON object: {fault}", row)
            return {column: stand_in(name) for column, name in self._reading.items()}

    def _column(self, rows: list[dict[str, Any]], column: pa.Field, report: Report) -> pa.Array:
        values, type_ = [row.get(column.name) for row in rows], column.type
        if isinstance(type_, pa.JsonType):
            texts = [None if value is None else json_text(value) for value in values]
            return pa.ExtensionArray.from_storage(type_, pa.array(texts, pa.string()))
        name = self._reading.get(column.name, "")
        if name in _WHOLE:
            values = [_whole(value) for value in values]
        if name == "id":
            values = [str(one) if _kind(one) in ("int", "long") else one for one in values]
        bad = [row for row, value in enumerate(values) if not _fits(value, type_)]
        accepted = COLUMNS[name].accepted if name else _TEXT

        def describe(row: int) -> str:
            return f"{shorten(json.dumps(rows[row][column.name]))}; expected {accepted}"

        report(column_label(name or column.name, column.name), np.array(bad, np.int64), describe)
        for row in bad:
            values[row] = stand_in(name)
        return pa.array(values, type_)


def _refuse_array(file: Path) -> None:
    """Refuse one JSON array instead of lines.

    :raises ManifestError: the file begins like one.
    """
    if next(_lines(file), "").lstrip("\ufeff \t").startswith("["):
        command = f"jq -c '.[]' {shell_command(file)} > NAME.jsonl"
        raise ManifestError(f"{file}: a JSON array; write one object a line: {command}")


def _kinds(files: Sequence[Path]) -> dict[str, set[str]]:
    """Find the kinds of the values in each column, over all lines that are JSON objects."""
    kinds: dict[str, set[str]] = defaultdict(set)
    for file in files:
        for line in _lines(file):
            with suppress(ValueError):
                for name, value in parse_line(line).items():
                    kinds[name].add(_kind(value))
    return kinds


def _lines(file: Path) -> Iterator[str]:
    """Read the lines that are not blank."""
    with open_text(file, newline="\n") as lines:
        yield from (line for line in lines if line.strip())


def _whole(value: Any) -> Any:
    """Return an integer for a float that is one; floats hold all integers below 2^53."""
    exact = isinstance(value, float) and value.is_integer() and abs(value) < _EXACT
    return int(value) if exact else value


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int() if abs(value) <= _EXACT:
            return "int"
        case int() if -(2**63) <= value < 2**63:
            return "long"
        case float():
            return "float"
        case str():
            return "text"
        case _:
            return "json"


def _type(kinds: set[str]) -> pa.DataType:
    kinds = kinds - {"null"}
    if not kinds:
        return pa.null()
    return next((type_ for type_, held in _HELD.items() if kinds <= held), pa.json_())


def _fits(value: Any, type_: pa.DataType) -> bool:
    kind = _kind(value)
    if kind == "null":
        return True
    return kind in _HELD[type_] and (kind != "text" or encodable(value))
