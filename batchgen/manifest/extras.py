"""Columns outside the contract: they travel along, typed in the metadata and as JSON in samples.

`_CONVERSIONS` says how values of each type become JSON, and manifests/README.md tells it to users.
Every type that Parquet stores is in it, so that no row fails after planning. Keys are sorted, and
separators have no spaces. Readers that take all JSON numbers for floats round integers over 2^53.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchgen.manifest.contract import plain, unencode
from batchgen.manifest.json_types import JsonType
from batchgen.manifest.utf8 import encodable

# What travels along where no column does.
NOTHING = "{}"
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def extra_columns(table: pa.Table) -> pa.Table:
    """Return travelling columns as they stand in the metadata: JSON text as plain strings."""
    if not table.num_columns:
        return table
    # Others are not cast, not even to their own types: Arrow spoils slices of structs and lists
    # that hold the null type.
    columns = [
        column.cast(pa.string()) if isinstance(column.type, pa.JsonType) else column
        for column in table.columns
    ]
    return pa.table(columns, names=table.column_names)


def json_rows(table: pa.Table, rows: int, types: Mapping[str, JsonType] | None = None) -> list[str]:
    """Return each of `rows` rows of travelling columns as one JSON object.

    :param types: of the columns in JSON; None: each value has its own.
    """
    if not table.num_columns:
        return [NOTHING] * rows
    names = table.schema.names
    columns = [_values(pa.concat_arrays(column.chunks)) for column in table.columns]
    if types is not None:
        columns = [
            [_typed(value, types[name]) for value in column]
            for name, column in zip(names, columns, strict=True)
        ]
    return [json_text(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]


def json_text(value: Any) -> str:
    """Return a value as JSON; only text that UTF-8 cannot hold is escaped (lone surrogates)."""
    options: dict[str, Any] = {"sort_keys": True, "separators": (",", ":"), "allow_nan": False}
    text = json.dumps(value, ensure_ascii=False, **options)
    return text if encodable(text) else json.dumps(value, **options)


class _NotFinite(str):
    """NaN or an infinity as text, because JSON has none."""

    __slots__ = ()


def _typed(value: Any, type_: JsonType) -> Any:
    """A value as it stands where all values of its column have this type in JSON."""
    if type_ == "json":
        return "" if value is None else json_text(value)
    if type_ == "string":
        return "" if value is None else value
    finite = _finite(value)
    return float(finite) if type_ == "number" and finite is not None else finite


def _finite(value: Any) -> Any:
    """A value whose numbers are finite or None."""
    if isinstance(value, list):
        return [_finite(part) for part in value]
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    return None if isinstance(value, _NotFinite) else value


def _values(array: pa.Array) -> list[Any]:
    """Convert an array to values that `json` can write."""
    for has_type, convert in _CONVERSIONS:
        if has_type(array.type):
            return convert(array)
    # Booleans, integers, texts and nulls.
    values: list[Any] = array.to_pylist()
    return values


def _each(convert: Callable[[Any], Any]) -> Callable[[pa.Array], list[Any]]:
    """Return a conversion value by value that leaves nulls alone."""
    return lambda array: [None if value is None else convert(value) for value in array.to_pylist()]


def _float(value: float) -> float | str:
    """JSON has no infinities and no NaN."""
    if math.isfinite(value):
        return value
    return _NotFinite("NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity")


def _parsed(text: str) -> Any:
    """Return the value that JSON text spells, the text itself if it spells none."""
    try:
        return json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return text


def _integers(array: pa.Array) -> pa.Array:
    return array.view(pa.int32() if array.type.bit_width == 32 else pa.int64())


def _moments(array: pa.Array, unit: str, zone: str = "") -> list[Any]:
    """Write moments counted in `unit` since 1970 as ISO 8601.

    numpy's years have no bounds. Python's datetime ends in 9999 and has no nanoseconds.
    """
    counts = _integers(array).fill_null(0).to_numpy(zero_copy_only=False)
    texts = np.datetime_as_string(counts.astype(f"datetime64[{unit}]")).tolist()
    valid = array.is_valid().to_pylist()
    return [text + zone if is_valid else None for text, is_valid in zip(texts, valid, strict=True)]


def _timestamps(array: pa.Array) -> list[Any]:
    """Timestamps of a column with a time zone are in UTC, whatever the zone."""
    return _moments(array, array.type.unit, "Z" if array.type.tz else "")


def _durations(array: pa.Array) -> list[Any]:
    """Durations become seconds."""
    per_second = _PER_SECOND[array.type.unit]
    seconds = _each(lambda count: count if per_second == 1 else count / per_second)
    return seconds(_integers(array))


def _lists(array: pa.Array) -> list[Any]:
    values = iter(_values(array.flatten()))
    return [
        None if size is None else [next(values) for _ in range(size)]
        for size in pc.list_value_length(array).to_pylist()
    ]


def _maps(array: pa.Array) -> list[Any]:
    """Maps become lists of {"key": …, "value": …}."""
    entry = pa.struct({"key": array.type.key_type, "value": array.type.item_type})
    return _lists(array.cast(pa.list_(entry)))


def _structs(array: pa.Array) -> list[Any]:
    names = [field.name for field in array.type]
    rows = zip(*map(_values, array.flatten()), strict=True)
    return [
        dict(zip(names, row, strict=True)) if is_valid else None
        for row, is_valid in zip(rows, array.is_valid().to_pylist(), strict=True)
    ]


def _is_encoded(found: pa.DataType) -> bool:
    return isinstance(found, pa.BaseExtensionType) or bool(pa.types.is_dictionary(found))


def _is_bytes(found: pa.DataType) -> bool:
    return bool(plain(found) == pa.binary() or pa.types.is_fixed_size_binary(found))


# The first entry whose test accepts an array's type converts it.
_CONVERSIONS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array], list[Any]]], ...] = (
    (lambda found: isinstance(found, pa.JsonType), lambda array: _each(_parsed)(array.storage)),
    (_is_encoded, lambda array: _values(unencode(array))),
    (pa.types.is_floating, _each(_float)),
    (pa.types.is_decimal, _each(lambda value: format(value, "f"))),
    (pa.types.is_timestamp, _timestamps),
    (pa.types.is_date32, lambda array: _moments(array, "D")),
    (pa.types.is_date64, lambda array: _moments(array, "ms")),
    (pa.types.is_time, lambda array: array.cast(pa.string()).to_pylist()),
    (pa.types.is_duration, _durations),
    (_is_bytes, _each(lambda value: base64.b64encode(value).decode())),
    (pa.types.is_map, _maps),
    (pa.types.is_struct, _structs),
    (pa.types.is_nested, _lists),
)
