"""JSON lines as typed batches: one JSON object a line, as RFC 8259 defines JSON (no NaN).

The files are read twice. The first reading finds the type of each column outside the contract over
all lines of all files: a type guessed from the first lines fails on a later one. An absent key is
null, because keys belong to rows here and not to files.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from batchgen.errors import ManifestError
from batchgen.manifest.contract import COLUMNS, find_columns
from batchgen.manifest.extras import json_text
from batchgen.manifest.problems import Problems, Report, place_in, shorten
from batchgen.manifest.utf8 import encodable

_LINES = 16_384
# Floats hold integers exactly up to here.
_EXACT = 2**53

# The kinds of values (see `_kind`) that columns of a type hold, null aside.
_HELD: dict[pa.DataType, set[str]] = {
    pa.bool_(): {"bool"},
    pa.int64(): {"int", "long"},
    pa.float64(): {"int", "float"},
    pa.string(): {"text"},
}
_TEXT = "a text without lone surrogates (\\ud800 … \\udfff)"


def jsonl_schema(files: Sequence[Path], problems: Problems) -> pa.Schema:
    """Find the columns of all files.

    Columns of the contract have its types. Others are boolean, int64, float64 or text if all their
    values are, else JSON text. Lines that are not JSON objects are reported.

    :raises ManifestError: there are such lines, or no row has a `prompt`.
    """
    kinds: dict[str, set[str]] = defaultdict(set)
    for file in files:
        for row, line in _lines(file):
            try:
                for name, value in _parse(line).items():
                    kinds[name].add(_kind(value))
            except ValueError as error:
                problems.add(f"row {row} of {file}: not a JSON object: {error}")
    problems.raise_if_any()
    types = {name: COLUMNS[name].type if name in COLUMNS else _type(kinds[name]) for name in kinds}
    schema = pa.schema(types)
    find_columns(schema, ", ".join(map(str, files)))
    return schema


def jsonl_batches(file: Path, schema: pa.Schema, problems: Problems) -> Iterator[pa.RecordBatch]:
    """Read one file's rows as `schema`; values of a wrong type are reported and null."""
    lines = _lines(file)
    while chunk := list(islice(lines, _LINES)):
        objects = [_parse(line) for _, line in chunk]
        with problems.batch(place_in(file, chunk[0][0])) as report:
            columns = [_column(objects, field, report) for field in schema]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Number the lines that are not blank from 0."""
    try:
        with file.open("rb") as stream:
            yield from enumerate(line for line in stream if line.strip())
    except OSError as error:
        raise ManifestError(f"{file}: cannot be read: {error.strerror}") from None


def _parse(line: bytes) -> dict[str, Any]:
    found = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse)
    if not isinstance(found, dict):
        raise ValueError(f"found {shorten(json_text(found))}")
    for name in found:
        name.encode()
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON; write null")


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


def _column(objects: list[dict[str, Any]], column: pa.Field, report: Report) -> pa.Array:
    name, type_ = column.name, column.type
    values = [one.get(name) for one in objects]
    if isinstance(type_, pa.JsonType):
        texts = [None if value is None else json_text(value) for value in values]
        return pa.ExtensionArray.from_storage(type_, pa.array(texts, pa.string()))
    bad = [row for row, value in enumerate(values) if not _fits(value, type_)]
    accepted = COLUMNS[name].accepted if name in COLUMNS else _TEXT

    def describe(row: int) -> str:
        return f"{shorten(json.dumps(values[row]))}; expected {accepted}"

    report(name, np.array(bad, np.int64), describe)
    for row in bad:
        values[row] = None
    return pa.array(values, type_)


def _fits(value: Any, type_: pa.DataType) -> bool:
    kind = _kind(value)
    if kind == "null":
        return True
    return kind in _HELD[type_] and (kind != "text" or encodable(value))
