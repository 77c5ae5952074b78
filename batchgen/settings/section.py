"""Strict TOML tables, and error messages that list what is accepted.

`read_toml` reads a file, `apply_override` changes a value, `parse` makes a `Section` of the whole.
They raise the error type of the caller: `JobError` for a job file, `SiteError` for a site profile.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from batchgen.errors import InputError, brief
from batchgen.regular_file import read_regular


class Section(BaseModel):
    """A table: unknown keys are refused, values are not converted, instances do not change."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Table = TypeVar("Table", bound=Section)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Above0:
    """Every number above zero, as values of another key with which a key is read."""

    # One of them, for messages.
    example: str

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and value > 0


# The values of another key with which a key is read.
ReadWith = Sequence[str | bool] | Above0


def setting(
    default: Value, meaning: str, *, read_with: Mapping[str, ReadWith] | None = None, **limits: Any
) -> Value:
    """A field of a `Section`.

    :param meaning: what the key is, for messages.
    :param read_with: other keys, as `section.key`, and the values of each with which this key is
        read; `written.py` refuses it elsewhere. None: it is always read.
    :param limits: as `Field` takes them.
    """
    extra: dict[str, Any] | None = {"read_with": read_with} if read_with else None
    field = Field(default=default, description=meaning, json_schema_extra=extra, **limits)
    return cast("Value", field)


def read_with(field: FieldInfo) -> Mapping[str, ReadWith]:
    """What `setting` was told by that name."""
    extra = field.json_schema_extra
    return cast("Mapping[str, ReadWith]", extra["read_with"]) if isinstance(extra, dict) else {}


def read_toml(path: Path, *, error: type[InputError], missing: str) -> dict[str, Any]:
    """The content of a TOML file.

    :param missing: what the message says where there is no such file.
    :raises error: the file does not exist, cannot be read, or is not TOML.
    """
    try:
        return loads(read_regular(path).decode())
    except FileNotFoundError:
        raise error(f"{path}: {missing}") from None
    except (OSError, UnicodeDecodeError) as reason:
        raise error(f"{path}: cannot be read as a TOML file: {reason}") from None
    except tomllib.TOMLDecodeError as reason:
        raise error(f"{path}: not TOML: {reason}") from None


def loads(text: str) -> dict[str, Any]:
    """The content of TOML.

    :raises tomllib.TOMLDecodeError: it is none, or it is too deep or too long to be read.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError:
        raise tomllib.TOMLDecodeError("tables or lists are nested too deeply") from None
    except ValueError as reason:  # an integer of thousands of digits
        raise tomllib.TOMLDecodeError(str(reason).partition(";")[0]) from None


def apply_override(content: dict[str, Any], override: str, *, error: type[InputError]) -> None:
    """Put the value of a `section.key=value` override into the content of a file.

    :raises error: the override has no key or no value, or its section is a value.
    """
    name, equals, value = override.partition("=")
    *sections, key = name.strip().split(".")
    if not equals or not all((*sections, key)):
        example = "for example --set sampling.steps=28"
        raise error(f"--set {brief(override)}: expected section.key=value, {example}")
    if any("\ud800" <= letter <= "\udfff" for letter in value):  # no TOML file could hold it
        raise error(f"--set {brief(repr(override))}: not valid UTF-8; rename the file or folder")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise error(f"--set {brief(override)}: {brief(section)} is a value, not a section")
    try:
        content[key] = loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:  # a bare word
        content[key] = value.strip()


def parse(
    section: type[Table], content: Mapping[str, Any], *, where: str, error: type[InputError]
) -> Table:
    """Check the content of a file and make a `Section` of it.

    :param where: the origin of the content, for messages.
    :raises error: unknown keys or impossible values; the message has a line for each.
    """
    try:
        return section.model_validate(content)
    except ValidationError as invalid:
        lines = [f"\n  {_explain(section, problem)}" for problem in invalid.errors()]
    raise error(f"{where}:{''.join(lines)}")


def _explain(section: type[Section], problem: ErrorDetails) -> str:
    """A problem in one line: the key, the value given, what is wrong, what is accepted."""
    table, field, key = _locate(section, problem["loc"])
    if problem["type"] == "extra_forbidden":
        unknown = ".".join(str(part) for part in problem["loc"])
        return f"{brief(unknown)}: unknown key; accepted here: {', '.join(table.model_fields)}"
    given = f"{key} = {brief(repr(problem['input']))}"
    message = brief(problem["msg"].removeprefix("Value error, "), 1000)
    if problem["type"] == "model_type":
        return f"{given}: expected a table; accepted in it: {', '.join(table.model_fields)}"
    if field is None or not field.description:  # a rule about several keys: its message names them
        return message
    if problem["type"] == "missing":
        return f"{key}: missing; it is: {field.description}"
    return f"{given}: {message}; {key} is: {_meaning(field)}"


def _meaning(field: FieldInfo) -> str:
    """The description of a field, and its default where it has one that can be written down."""
    if field.is_required() or field.default in (None, (), ""):
        return str(field.description)
    return f"{field.description} (default {json.dumps(field.default)})"


def _locate(
    section: type[Section], loc: tuple[int | str, ...]
) -> tuple[type[Section], FieldInfo | None, str]:
    """The innermost table on the way to a problem, the last known field, and its dotted key."""
    table, field, key = section, None, []
    for part in loc:
        if isinstance(part, str):
            # Behind the last field stands an unknown key, or one of the types a value may have.
            if part not in table.model_fields:
                break
            field = table.model_fields[part]
            table = _inner_table(field) or table
        key.append(str(part))
    return table, field, ".".join(key)


def _inner_table(field: FieldInfo) -> type[Section] | None:
    """The kind of table that a field holds, alone or in a list."""
    kinds = (field.annotation, *get_args(field.annotation))
    tables = (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section))
    return next(tables, None)
