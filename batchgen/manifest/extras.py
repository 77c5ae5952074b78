"""Travelling columns: every column outside the contract, typed for the metadata and as one JSON object a row for the sample.

How a value becomes JSON; every type Parquet can store has a line here, so no row fails late:

    null                          null
    boolean, integer, string      as they are
    float                         a number; NaN and infinities the strings "NaN", "Infinity", "-Infinity" (JSON has none)
    decimal                       a string, all digits: "1.50"
    timestamp                     a string, ISO 8601 in the column's resolution; with Z where the column has a time zone (always UTC)
    date, time                    strings, ISO 8601: "2024-02-29", "12:30:00.500"
    duration                      a number of seconds
    binary                        a string, base64
    list                          an array            struct    an object
    map                           an array of {"key": …, "value": …}
    JSON text (arrow.json)        the value it spells, or the text itself where it spells none
    dictionary, extension         as the values, the storage they encode

Keys are sorted, separators have no spaces. *Not* promised: that 64-bit integers survive a reader that takes JSON numbers for floats.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchgen.manifest.contract import COLUMNS, plain, unencode

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def extra_columns(table: pa.Table, *, typed_json: bool = False) -> pa.Table:
    """The travelling columns of a table from `read_rows`; JSON text as plain strings unless `typed_json`."""
    kept = table.select([name for name in table.schema.names if name not in COLUMNS])
    return kept if typed_json or not kept.num_columns else kept.cast(stored_schema(kept.schema))


def stored_schema(extra: pa.Schema) -> pa.Schema:
    """The types `extras` gives the metadata."""
    return pa.schema(
        [
            pa.field(field.name, pa.string() if isinstance(field.type, pa.JsonType) else field.type)
            for field in extra
        ]
    )


def json_rows(extra: pa.Table) -> list[str]:
    """One JSON object a row, `{}` without travelling columns."""
    if not extra.num_columns:
        return ["{}"] * extra.num_rows
    columns = [_values(pa.concat_arrays(extra.column(name).chunks)) for name in extra.schema.names]
    return [
        json_text(dict(zip(extra.schema.names, row, strict=True)))
        for row in zip(*columns, strict=True)
    ]


def json_text(value: Any) -> str:
    """A value as JSON: keys sorted, text as itself, escaped only where it could not be written as UTF-8 (lone surrogates)."""
    text = json.dumps(
        value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text


def _values(array: pa.Array) -> list[Any]:
    """What `json` can write, one value a slot."""
    found = array.type
    for is_type, convert in _CONVERSIONS:
        if is_type(found):
            return convert(array)
    values: list[Any] = array.to_pylist()
    return values


def _each(convert: Callable[[Any], Any]) -> Callable[[pa.Array], list[Any]]:
    """A conversion slot by slot that leaves nulls alone."""
    return lambda array: [None if value is None else convert(value) for value in array.to_pylist()]


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _parsed(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return text


def _integers(array: pa.Array) -> pa.Array:
    return array.view(pa.int32() if array.type.bit_width == 32 else pa.int64())


def _moments(array: pa.Array, unit: str) -> list[str | None]:
    """ISO 8601 by numpy, whose years have no bounds; Python's datetime ends at 9999 and has no nanoseconds."""
    moments = (
        _integers(array).fill_null(0).to_numpy(zero_copy_only=False).astype(f"datetime64[{unit}]")
    )
    texts = np.datetime_as_string(moments).tolist()
    return [
        text if valid else None
        for text, valid in zip(texts, array.is_valid().to_pylist(), strict=True)
    ]


def _timestamps(array: pa.Array) -> list[Any]:
    zone = "Z" if array.type.tz else ""
    return [text and text + zone for text in _moments(array, array.type.unit)]


def _times(array: pa.Array) -> list[Any]:
    return [text and text.partition("T")[2] for text in _moments(array, array.type.unit)]


def _durations(array: pa.Array) -> list[Any]:
    ticks = _PER_SECOND[array.type.unit]
    return [
        None if value is None else value if ticks == 1 else value / ticks
        for value in _integers(array).to_pylist()
    ]


def _lists(array: pa.Array) -> list[Any]:
    values = iter(_values(array.flatten()))
    return [
        None if size is None else [next(values) for _ in range(size)]
        for size in pc.list_value_length(array).to_pylist()
    ]


def _maps(array: pa.Array) -> list[Any]:
    entry = pa.struct(
        [pa.field("key", array.type.key_type), pa.field("value", array.type.item_type)]
    )
    return _lists(array.cast(pa.list_(entry)))


def _structs(array: pa.Array) -> list[Any]:
    names = [field.name for field in array.type]
    fields = [_values(field) for field in array.flatten()]
    valid = array.is_valid().to_pylist()
    return [
        dict(zip(names, (field[i] for field in fields), strict=True)) if is_valid else None
        for i, is_valid in enumerate(valid)
    ]


def _is_bytes(found: pa.DataType) -> bool:
    return bool(plain(found) == pa.binary() or pa.types.is_fixed_size_binary(found))


_CONVERSIONS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array], list[Any]]], ...] = (
    (lambda t: isinstance(t, pa.JsonType), lambda array: _each(_parsed)(array.storage)),
    (
        lambda t: isinstance(t, pa.BaseExtensionType) or pa.types.is_dictionary(t),
        lambda array: _values(unencode(array)),
    ),
    (pa.types.is_floating, _each(_number)),
    (pa.types.is_decimal, _each(lambda value: format(value, "f"))),
    (pa.types.is_timestamp, _timestamps),
    (lambda t: t == pa.date32(), lambda array: _moments(array, "D")),
    (
        lambda t: t == pa.date64(),
        lambda array: [text and text.partition("T")[0] for text in _moments(array, "ms")],
    ),
    (pa.types.is_time, _times),
    (pa.types.is_duration, _durations),
    (_is_bytes, _each(lambda value: base64.b64encode(value).decode())),
    (pa.types.is_map, _maps),
    (pa.types.is_struct, _structs),
    (pa.types.is_nested, _lists),
)
