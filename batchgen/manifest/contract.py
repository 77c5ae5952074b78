"""The columns' contract: which columns a manifest may have, of which types, with which values.

`prompt` is required. The other columns of `COLUMNS` are optional, and null in one of them means
"absent: use the job's default". Columns that `COLUMNS` does not name travel along unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from batchgen.errors import ManifestError
from batchgen.settings import MAX_SEED, MAX_SIDE_PX

MAX_ID_CHARACTERS = 256
# Keys have nine digits.
MAX_PICTURES = 10**9


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the contract."""

    # What all accepted types are cast to: string, int64 or float64.
    type: pa.DataType
    # Which values are accepted, as messages say it.
    accepted: str
    # Smallest accepted number.
    low: int = 0
    # Largest accepted number.
    high: int = 0


_TEXT, _INTEGER, _FLOAT = pa.string(), pa.int64(), pa.float64()
_SIDE = f"px, a multiple of 16 from 16 to {MAX_SIDE_PX}"
_ID = f"a unique text of at most {MAX_ID_CHARACTERS} characters without control characters"

COLUMNS: dict[str, Column] = {
    "prompt": Column(_TEXT, "a text that is not empty, in UTF-8 and without NUL"),
    "id": Column(_TEXT, _ID),
    "negative_prompt": Column(_TEXT, "a text in UTF-8 without NUL"),
    "seed": Column(_INTEGER, "an integer from 0 to 2^63-1", 0, MAX_SEED),
    "width": Column(_INTEGER, _SIDE, 16, MAX_SIDE_PX),
    "height": Column(_INTEGER, _SIDE, 16, MAX_SIDE_PX),
    "steps": Column(_INTEGER, "an integer from 1 to 1000", 1, 1000),
    "guidance": Column(_FLOAT, "a finite number from 0 to 100", 0, 100),
    "true_cfg": Column(_FLOAT, "a finite number from 0 to 100", 0, 100),
    "images": Column(_INTEGER, "an integer from 1 to 100000", 1, 100_000),
}

_ACCEPTED_TYPES: dict[pa.DataType, str] = {
    _TEXT: "a string type (string, large_string, string_view or a dictionary of strings)",
    _INTEGER: "an integer type",
    _FLOAT: "a float or integer type",
}


# The types of a file's columns by name, without their encodings: first the contract's columns, in
# its order, then the others, in the file's order.
Columns = dict[str, pa.DataType]


def plain(found: pa.DataType) -> pa.DataType:
    """Return a type without its encoding.

    Dictionaries, views, large offsets and extensions give the type of their values. JSON text
    (Arrow's `arrow.json`) stays.
    """
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
    """Cast an array to the type `plain(array.type)`."""
    target = plain(array.type)
    if array.type == target:
        return array
    if not isinstance(array.type, pa.BaseExtensionType):
        return array.cast(target)
    values = unencode(array.storage)
    if isinstance(target, pa.JsonType):
        return pa.ExtensionArray.from_storage(target, values.cast(pa.string()))
    return values


def normalise(array: pa.Array, name: str) -> pa.Array:
    """Cast a column of the contract to string, int64 or float64.

    Unsigned values over 2^63-1 become negative and so stay outside of every accepted range.
    """
    return array.cast(COLUMNS[name].type, safe=False)


def find_columns(schema: pa.Schema, file: str | Path) -> Columns:
    """Return a file's columns, checked against the contract.

    :raises ManifestError: `prompt` is missing, a column of the contract has another type, or two
        columns have one name.
    """
    names = list(schema.names)
    found = f"Columns found: {', '.join(names) or 'none'}"
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ManifestError(
            f"{file}, column {twice[0]}: stands twice; column names must differ. {found}"
        )
    if "prompt" not in names:
        raise ManifestError(f"{file}: no column prompt (string), the one that is required. {found}")
    contract = [name for name in COLUMNS if name in names]
    wrong = [
        f"{file}, column {name}: found type {schema.field(name).type}, "
        f"expected {_ACCEPTED_TYPES[COLUMNS[name].type]}"
        for name in contract
        if not _is_accepted(schema.field(name).type, name)
    ]
    if wrong:
        raise ManifestError("\n".join(wrong))
    extra = {name: plain(schema.field(name).type) for name in names if name not in COLUMNS}
    return {name: COLUMNS[name].type for name in contract} | extra


def _is_accepted(found: pa.DataType, name: str) -> bool:
    wanted = COLUMNS[name].type
    if pa.types.is_null(found):
        # Nulls in every row: the column is absent everywhere.
        return name != "prompt"
    if wanted == _TEXT:
        return bool(plain(found) == _TEXT) and not isinstance(found, pa.BaseExtensionType)
    is_float = wanted == _FLOAT and pa.types.is_floating(found)
    return bool(is_float or pa.types.is_integer(found))


def agree(files: Sequence[tuple[str | Path, Columns]]) -> Columns:
    """Return the columns that all files share.

    A column that only some files have is refused: the other files' rows would take the job's
    default without anybody being told.

    :raises ManifestError: two files differ; the message names both and the column.
    """
    first_file, expected = files[0]
    for file, found in files[1:]:
        for name in sorted(expected.keys() ^ found.keys()):
            has, lacks = (first_file, file) if name in expected else (file, first_file)
            raise ManifestError(
                f"{lacks}, column {name}: missing, but {has} has it; "
                "files of one manifest must have the same columns"
            )
        for name, type_ in expected.items():
            if found[name] != type_:
                raise ManifestError(
                    f"{file}, column {name}: type {found[name]}, but {type_} in {first_file}; "
                    "files of one manifest must agree on types"
                )
    return expected
