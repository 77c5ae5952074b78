"""The column contract: which columns a manifest may have, of which types, with which values.

`prompt` is required. The other columns of `COLUMNS` are optional, and a null in one of them means "absent:
use the job's default". Any column not named here travels along untouched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from batchgen.errors import ManifestError
from batchgen.settings import MAX_SEED, MAX_SIDE_PX

MAX_ID_CHARACTERS = 256
MAX_PICTURES = 10**9  # keys have nine digits

Kind = Literal["string", "int", "float"]

TYPES: dict[Kind, pa.DataType] = {"string": pa.string(), "int": pa.int64(), "float": pa.float64()}
_EXPECTED: dict[Kind, str] = {
    "string": "a string type (string, large_string, string_view or a dictionary of strings)",
    "int": "an integer type",
    "float": "a float or integer type",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the contract; `low` and `high` are inclusive and None for strings."""

    kind: Kind
    accepted: str
    low: int | None = None
    high: int | None = None


COLUMNS: dict[str, Column] = {
    "prompt": Column("string", "a text that is not empty, in UTF-8 and without NUL"),
    "id": Column(
        "string",
        f"a unique text of at most {MAX_ID_CHARACTERS} characters without control characters",
    ),
    "negative_prompt": Column("string", "a text in UTF-8 without NUL"),
    "seed": Column("int", "an integer from 0 to 2^63-1", 0, MAX_SEED),
    "width": Column("int", f"px, a multiple of 16 from 16 to {MAX_SIDE_PX}", 16, MAX_SIDE_PX),
    "height": Column("int", f"px, a multiple of 16 from 16 to {MAX_SIDE_PX}", 16, MAX_SIDE_PX),
    "steps": Column("int", "an integer from 1 to 1000", 1, 1000),
    "guidance": Column("float", "a finite number from 0 to 100", 0, 100),
    "true_cfg": Column("float", "a finite number from 0 to 100", 0, 100),
    "images": Column("int", "an integer from 1 to 100000", 1, 100_000),
}


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of one file, types normalised."""

    contract: tuple[str, ...]  # the contract's columns it has, in the contract's order
    extra: pa.Schema  # its travelling columns, in the file's order, of `plain` types

    def types(self) -> dict[str, pa.DataType]:
        """Name → normalised type of every column."""
        own = {name: TYPES[COLUMNS[name].kind] for name in self.contract}
        return own | {field.name: field.type for field in self.extra}


def plain(found: pa.DataType) -> pa.DataType:
    """A type without its encoding: dictionaries, views, large offsets and extensions (JSON text excepted) give the type of their values."""
    if isinstance(found, pa.JsonType):
        return pa.json_()
    if isinstance(found, pa.BaseExtensionType):
        return plain(found.storage_type)
    if pa.types.is_dictionary(found):
        return plain(found.value_type)
    if pa.types.is_large_string(found) or pa.types.is_string_view(found):
        return pa.string()
    if pa.types.is_large_binary(found) or pa.types.is_binary_view(found):
        return pa.binary()
    return found


def unencode(array: pa.Array) -> pa.Array:
    """An array of type `plain(array.type)`."""
    target = plain(array.type)
    if array.type == target:
        return array
    if isinstance(array.type, pa.BaseExtensionType):
        inner = unencode(array.storage)
        return (
            pa.ExtensionArray.from_storage(target, inner.cast(pa.string()))
            if isinstance(target, pa.JsonType)
            else inner
        )
    return array.cast(target)


def find_columns(schema: pa.Schema, file: str | Path) -> Columns:
    """Check a file's columns against the contract.

    :raises ManifestError: no `prompt`, a contract column of another type, or two columns of one name.
    """
    names = list(schema.names)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ManifestError(
            f"{file}, column {twice[0]}: stands twice; column names must differ. Columns found: {', '.join(names)}"
        )
    if "prompt" not in names:
        raise ManifestError(
            f"{file}: no column prompt (string), the one that is required. Columns found: {', '.join(names) or 'none'}"
        )
    wrong = [
        f"{file}, column {name}: found type {schema.field(name).type}, expected {_EXPECTED[column.kind]}"
        for name, column in COLUMNS.items()
        if name in names and not _has_kind(name, column.kind, schema.field(name).type)
    ]
    if wrong:
        raise ManifestError("\n".join(wrong))
    extra = pa.schema(
        [pa.field(name, plain(schema.field(name).type)) for name in names if name not in COLUMNS]
    )
    return Columns(tuple(name for name in COLUMNS if name in names), extra)


def agree(layouts: Sequence[tuple[str | Path, Columns]]) -> Columns:
    """The layout all files share.

    A column that only some files have is refused: its rows would take the job's default in silence.

    :raises ManifestError: naming both files and the column that differs.
    """
    first_file, first = layouts[0]
    expected = first.types()
    for file, other in layouts[1:]:
        found = other.types()
        for name in sorted(expected.keys() ^ found.keys()):
            has, lacks = (first_file, file) if name in expected else (file, first_file)
            raise ManifestError(
                f"{lacks}, column {name}: missing, but {has} has it; files of one manifest must have the same columns"
            )
        for name, type_ in expected.items():
            if found[name] != type_:
                raise ManifestError(
                    f"{file}, column {name}: type {found[name]}, but {type_} in {first_file}; files of one manifest must agree on types"
                )
    return first


def normalise(array: pa.Array, name: str) -> pa.Array:
    """A contract column as string, int64 or float64. An unsigned value over 2^63-1 turns negative: out of every range."""
    return array.cast(TYPES[COLUMNS[name].kind], safe=False)


def _has_kind(name: str, kind: Kind, found: pa.DataType) -> bool:
    if pa.types.is_null(found):
        return name != "prompt"  # a column of nulls only: absent everywhere
    if kind == "string":
        return bool(plain(found) == pa.string()) and not isinstance(found, pa.BaseExtensionType)
    return bool(pa.types.is_integer(found) or (kind == "float" and pa.types.is_floating(found)))
