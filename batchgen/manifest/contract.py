"""The columns' contract: which columns a manifest may have, of which types, with which values.

`prompt` is required. The other columns of `COLUMNS` are optional, and null in one of them means
"absent: use the job's default". Columns that `COLUMNS` does not name travel along unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from batchgen.settings import MAX_SEED, MAX_SIDE_PX, Sampling

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
    # Which types are accepted, as messages say it.
    accepted_types: str
    # Smallest accepted number.
    low: int = 0
    # Largest accepted number.
    high: int = 0


_TEXT, _INTEGER, _FLOAT = pa.string(), pa.int64(), pa.float64()
_SIDE = f"px, a multiple of 16 from 16 to {MAX_SIDE_PX}"
_ID = (
    f"a unique text of at most {MAX_ID_CHARACTERS} characters without control characters, or a "
    "whole number"
)

_STRINGS = "a string type (string, large_string, string_view or a dictionary of strings)"
_WHOLE = "an integer type, or a float type with whole numbers"
_NUMBERS = "a float or integer type"

COLUMNS: dict[str, Column] = {
    "prompt": Column(_TEXT, "a text that is not empty, in UTF-8 and without NUL", _STRINGS),
    "id": Column(_TEXT, _ID, f"{_STRINGS} or {_WHOLE}"),
    "negative_prompt": Column(_TEXT, "a text in UTF-8 without NUL", _STRINGS),
    "seed": Column(_INTEGER, "an integer from 0 to 2^63-1", _WHOLE, 0, MAX_SEED),
    "width": Column(_INTEGER, _SIDE, _WHOLE, 16, MAX_SIDE_PX),
    "height": Column(_INTEGER, _SIDE, _WHOLE, 16, MAX_SIDE_PX),
    "steps": Column(_INTEGER, "an integer from 1 to 1000", _WHOLE, 1, 1000),
    "guidance": Column(_FLOAT, "a finite number from 0 to 100", _NUMBERS, 0, 100),
    "true_cfg": Column(_FLOAT, "a finite number from 0 to 100", _NUMBERS, 0, 100),
    "images": Column(_INTEGER, "an integer from 1 to 100000", _WHOLE, 1, 100_000),
}

# The columns for which a job has a value, which rows take that have none.
DEFAULTED = tuple(name for name in COLUMNS if name in Sampling.model_fields)

# The floats of each type hold all integers below this.
_INTEGERS_BELOW = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}


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


def join_types(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the type of columns that hold values of both types; None where there is none.

    The null type, also inside of lists and structs, is that of a column without any value, and
    joins every other.
    """
    if pa.types.is_null(one) or pa.types.is_null(other):
        return other if pa.types.is_null(one) else one
    if pa.types.is_list(one) and pa.types.is_list(other):
        inner = join_types(one.value_type, other.value_type)
        return inner and pa.list_(inner)
    if pa.types.is_struct(one) and pa.types.is_struct(other) and one.names == other.names:
        joined = [join_types(a.type, b.type) for a, b in zip(one, other, strict=True)]
        return pa.struct(zip(one.names, joined, strict=True)) if all(joined) else None
    return one if one == other else None


def fill_type(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    """Cast an array to `plain(array.type)`, joined with other files' types."""
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), wanted)
    values = unencode(array)
    return values if values.type == wanted else values.cast(wanted)


def lacks_values(found: pa.DataType) -> bool:
    """Tell whether a type is null, or holds the null type inside of lists or structs."""
    inner = [found.field(i).type for i in range(found.num_fields)]
    return bool(pa.types.is_null(found)) or any(map(lacks_values, inner))


def stand_in(name: str) -> str | None:
    """Return what replaces a value that was reported: it is accepted, so no check reports it again.

    :param name: a column of the contract.
    """
    return "?" if name == "prompt" else None


def is_accepted(found: pa.DataType, name: str) -> bool:
    """Tell whether a column of type `found` can be read as the contract's column `name`."""
    if pa.types.is_null(found):
        # Nulls in every row: the column is absent everywhere.
        return name != "prompt"
    if isinstance(found, pa.BaseExtensionType):
        return False
    is_number = bool(pa.types.is_integer(found) or pa.types.is_floating(found))
    if COLUMNS[name].type != _TEXT:
        return is_number
    return bool(plain(found) == _TEXT) or (name == "id" and is_number)


def normalise(array: pa.Array, name: str) -> pa.Array:
    """Cast a column that is read as the contract's column `name` to string, int64 or float64.

    NaN becomes null, as pandas means it. So do floats that are no integers where an integer is
    wanted: `inexact` finds them. Unsigned values over 2^63-1 become negative, and so stay outside
    of every accepted range.
    """
    wanted = COLUMNS[name].type
    if pa.types.is_floating(array.type):
        numbers = array.cast(_FLOAT)
        unusable = pc.is_nan(numbers) if wanted == _FLOAT else pc.invert(_is_exact(array))
        array = pc.if_else(unusable, pa.scalar(None, _FLOAT), numbers)
        if wanted == _TEXT:
            array = array.cast(_INTEGER)
    return array.cast(wanted, safe=False)


def inexact(array: pa.Array, name: str) -> pa.Array:
    """Mark the floats of a column from which no integer can be read, though one is wanted."""
    if not pa.types.is_floating(array.type) or COLUMNS[name].type == _FLOAT:
        return pa.array([False] * len(array), pa.bool_())
    return pc.and_not(pc.invert(_is_exact(array)), pc.is_nan(array.cast(_FLOAT)))


def _is_exact(array: pa.Array) -> pa.Array:
    """Tell which floats are integers that no neighbour can have been rounded to."""
    numbers = array.cast(_FLOAT)
    whole = pc.equal(numbers, pc.trunc(numbers))
    return pc.and_(whole, pc.less(pc.abs(numbers), _INTEGERS_BELOW[array.type]))
