"""The type of each travelling column in the samples' JSON: one in all samples of a run.

Loaders infer types from the first samples, and fail later where another sample differs. A column of
booleans, integers or floats without a missing value keeps its type. Texts, bytes, dates and the
like are strings, empty where they are missing. Everything else is a string with JSON in it, empty
where it is missing: lists, maps, structs, and numbers that are not there in every row or not
finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from batchgen.manifest.contract import plain, unencode

JsonType = Literal["boolean", "integer", "number", "string", "json"]


@dataclass(slots=True)
class JsonTypes:
    """Collects what columns hold, batch by batch."""

    # Column → its type in Arrow, after all files; encodings do not count.
    columns: Mapping[str, pa.DataType]
    # Columns with a value that is missing or, of a number, not finite.
    _partial: set[str] = field(default_factory=set)

    def add(self, batch: pa.RecordBatch) -> None:
        """Look at the columns of a batch of rows."""
        for name, type_ in self.columns.items():
            seen = name in self._partial or _bare(type_) is None
            if not seen and _lacks_numbers(batch.column(name)):
                self._partial.add(name)

    def types(self) -> dict[str, JsonType]:
        """The type of each column, in the order of columns."""
        return {name: self._type(name, type_) for name, type_ in self.columns.items()}

    def _type(self, name: str, type_: pa.DataType) -> JsonType:
        if bare := _bare(type_):
            return "json" if name in self._partial else bare
        return "string" if _is_text(plain(type_)) else "json"


def _bare(type_: pa.DataType) -> JsonType | None:
    """The type of a column of numbers or booleans in JSON; None for other columns."""
    bare = plain(type_)
    if pa.types.is_boolean(bare):
        return "boolean"
    # Loaders take integers for signed ones of 64 bits.
    if pa.types.is_integer(bare) and bare != pa.uint64():
        return "integer"
    return "number" if pa.types.is_floating(bare) else None


def _lacks_numbers(array: pa.Array) -> bool:
    if array.null_count:
        return True
    values = unencode(array)
    return pa.types.is_floating(values.type) and not pc.all(pc.is_finite(values)).as_py()


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
