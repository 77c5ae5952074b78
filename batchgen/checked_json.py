"""JSON that is believed only if it checks: its types, and its checksum where it has one.

An object without a checksum was written by batchgen 0.2 or older, or is of little consequence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

Kind = TypeVar("Kind")
_KEY = "checksum"


def seal(values: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    """The JSON text of an object and of its checksum."""
    return json.dumps({**values, _KEY: digest(values)}, indent=indent).encode()


def unseal(text: bytes) -> dict[str, Any]:
    """The object that was written, without its checksum. Its layout may have changed.

    :raises ValueError: the text is no JSON object, or not the object that `seal` wrote.
    """
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    found = values.pop(_KEY, None)
    if found is not None and found != digest(values):
        raise ValueError("its content does not have the checksum that was written with it")
    return values


def checksum_of(text: bytes) -> str:
    """The checksum of the object that `unseal` gives, whatever its layout."""
    return digest(unseal(text))


def digest(values: Mapping[str, Any]) -> str:
    """The SHA-256 of JSON values, hexadecimal: the same in whatever order the keys are."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def parse(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """An object as a dataclass, a pydantic model or a type like `dict[str, int]`.

    :raises ValueError: a key is missing, or a value is of another type; in one line.
    """
    try:
        # As JSON, because Python's strict types would refuse a list for a tuple.
        adapter = _adapter(cast("Any", kind))
        return cast("Kind", adapter.validate_json(json.dumps(values), strict=True))
    except ValidationError as error:
        first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    raise ValueError(f"{key}: {first['msg']}" if key else first["msg"])


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
