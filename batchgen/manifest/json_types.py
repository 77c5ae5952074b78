"""The type of each travelling column in the samples' JSON: one in all samples of a run.

Booleans, integers and floats keep their types. Texts, bytes, dates and the like are strings, empty
where a row has none. Lists and maps are arrays, structs objects. A value that is missing is null,
and so is a number that is not finite, because JSON has none. Loaders that infer types would take
the first samples' nulls and empty arrays for the type of all, so the dataset card states the types
(`dataset/card_features.py`).

What no type can be stated for is a string with JSON in it, empty where a row has none: JSON text,
which may spell anything, unsigned integers of 64 bits, and columns without any value, or with parts
of that kind. In plans that were made before there were arrays, "json" stands for these too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pyarrow as pa

from batchgen.manifest.contract import plain

JsonType = Literal["boolean", "integer", "number", "string", "array", "object", "json"]


def json_types(columns: Mapping[str, pa.DataType]) -> dict[str, JsonType]:
    """The type of each column, in the order of columns.

    :param columns: column → its type in Arrow, after all files; encodings do not count.
    """
    return {name: json_type(type_) for name, type_ in columns.items()}


def json_type(type_: pa.DataType) -> JsonType:
    """The type in JSON of values of an Arrow type, a column's or a part's of one."""
    found = plain(type_)
    if _is_text(found):
        return "string"
    if bare := _bare(found):
        return bare
    if not _is_fixed(found):
        return "json"
    return "object" if pa.types.is_struct(found) else "array"


def _is_fixed(nested: pa.DataType) -> bool:
    """Whether all values of a nested type have one type in JSON, in all their parts."""
    is_ = pa.types
    if is_.is_struct(nested):
        parts = [field.type for field in nested]
    elif is_.is_map(nested):
        parts = [nested.key_type, nested.item_type]
    else:
        parts = [nested.value_type] if is_.is_nested(nested) and not is_.is_union(nested) else []
    return bool(parts) and all(json_type(part) != "json" for part in parts)


def _bare(type_: pa.DataType) -> Literal["boolean", "integer", "number"] | None:
    """The type of numbers and booleans in JSON; None for others."""
    if pa.types.is_boolean(type_):
        return "boolean"
    # Loaders take integers for signed ones of 64 bits.
    if pa.types.is_integer(type_) and type_ != pa.uint64():
        return "integer"
    # Durations are seconds.
    return "number" if pa.types.is_floating(type_) or pa.types.is_duration(type_) else None


def _is_text(type_: pa.DataType) -> bool:
    """Whether `extras.py` writes every value of such a column as a string."""
    if isinstance(type_, pa.JsonType):
        return False
    is_ = pa.types
    tests = (
        *(is_.is_string, is_.is_binary, is_.is_fixed_size_binary),
        *(is_.is_decimal, is_.is_timestamp, is_.is_date, is_.is_time),
    )
    return any(test(type_) for test in tests)
