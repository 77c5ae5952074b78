"""JSONL as typed batches: one JSON object a line (RFC 8259: no NaN), read twice.

The first reading finds the type of each travelling column over all lines of all files, because a type guessed from the
first lines fails on a later one. An absent key is null: keys belong to rows here, not to files.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from batchgen.errors import ManifestError
from batchgen.manifest.contract import COLUMNS, TYPES, find_columns
from batchgen.manifest.extras import json_text
from batchgen.manifest.problems import Problems, shorten

_LINES = 16_384
_EXACT = 2**53  # integers up to here are exact as floats


def jsonl_schema(files: Sequence[Path], problems: Problems) -> pa.Schema:
    """The columns of all files: contract columns typed; others boolean, int64, float64 or text where all values are, else JSON text.

    Lines that are not JSON objects are reported.

    :raises ManifestError: no `prompt` in any row.
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
    schema = pa.schema(
        [
            (name, TYPES[COLUMNS[name].kind] if name in COLUMNS else _type(found))
            for name, found in kinds.items()
        ]
    )
    find_columns(schema, ", ".join(map(str, files)))
    return schema


def jsonl_batches(file: Path, schema: pa.Schema, problems: Problems) -> Iterator[pa.RecordBatch]:
    """The rows of one file; values of a wrong type are reported and null."""
    lines = _lines(file)
    while chunk := list(islice(lines, _LINES)):
        objects = [_parse(line) for _, line in chunk]
        columns = [_column(objects, field, file, chunk[0][0], problems) for field in schema]
        problems.end_batch()
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """(row, line) of the lines that are not blank."""
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
        case int():
            return (
                "int" if abs(value) <= _EXACT else "long" if -(2**63) <= value < 2**63 else "json"
            )
        case float():
            return "float"
        case str():
            return "string"
        case _:
            return "json"


def _type(kinds: set[str]) -> pa.DataType:
    kinds = kinds - {"null"}
    if not kinds:
        return pa.null()
    for accepted, type_ in (
        ({"bool"}, pa.bool_()),
        ({"int", "long"}, pa.int64()),
        ({"int", "float"}, pa.float64()),
        ({"string"}, pa.string()),
    ):
        if kinds <= accepted:
            return type_
    return pa.json_()


def _column(
    objects: list[dict[str, Any]], field: pa.Field, file: Path, start: int, problems: Problems
) -> pa.Array:
    name = field.name
    values = [one.get(name) for one in objects]
    if isinstance(field.type, pa.JsonType):
        return pa.ExtensionArray.from_storage(
            field.type, pa.array([None if v is None else json_text(v) for v in values], pa.string())
        )
    bad = [i for i, value in enumerate(values) if not _fits(value, field.type)]
    accepted = (
        COLUMNS[name].accepted
        if name in COLUMNS
        else "a text without lone surrogates (\\ud800 … \\udfff)"
    )
    problems.rows(
        bad,
        lambda i: (
            f"row {start + i} of {file}, column {name}: {shorten(json.dumps(objects[i][name]))}; expected {accepted}"
        ),
    )
    for i in bad:
        values[i] = None
    return pa.array(values, field.type)


def _fits(value: Any, type_: pa.DataType) -> bool:
    if value is None:
        return True
    if type_ == pa.string():
        return isinstance(value, str) and (value.isascii() or _encodes(value))
    if type_ == pa.int64():
        return type(value) is int and -(2**63) <= value < 2**63
    if type_ == pa.float64():
        return type(value) is float or (type(value) is int and abs(value) <= _EXACT)
    return True


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
