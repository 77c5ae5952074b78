"""Keys that a person wrote, told apart from defaults; those that nothing reads are refused.

Whoever writes a key believes that it acts. A field declares with `setting(..., read_with=...)`
under which values of other keys it is read; a field that declares nothing is always read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from batchgen.errors import InputError, shell_command
from batchgen.settings.section import ReadWith, Section, read_with

File = TypeVar("File", bound=Section)


def mark_written(file: File, written: Mapping[str, Any]) -> File:
    """The same settings; in each section, `model_fields_set` are the keys that were written.

    :param file: a file whose top level holds nothing but sections.
    :param written: section → the keys that somebody wrote, with any values.
    """
    sections = {
        name: section.model_construct(set(written.get(name, ())), **dict(section))
        for name, section in file
    }
    return file.model_construct(set(written), **sections)


def refuse_unread(file: Section, *, where: str, error: type[InputError]) -> None:
    """Check that every written key is read.

    :param file: as `mark_written` returns it.
    :param where: the origin of the settings, for the message.
    :raises error: some keys are not read; the message says for each when it would be.
    """
    if unread := [f"\n  {line}" for line in _unread(file)]:
        raise error(f"{where}:{''.join(unread)}")


def _unread(file: Section) -> Iterator[str]:
    """A line for each written key that nothing reads, in the order of the declarations."""
    for section, table in file:
        for key, field in type(table).model_fields.items():
            conditions = read_with(field) if key in table.model_fields_set else {}
            for other, accepted in conditions.items():
                if (value := _value(file, other)) not in accepted:
                    yield _explain(f"{section}.{key}", other, value, accepted)
                    break


def _explain(key: str, other: str, value: object, accepted: ReadWith) -> str:
    *most, last = (json.dumps(one) for one in accepted)
    values = f"{', '.join(most)} or {last}" if most else last
    remedy = shell_command("--set", f"{other}={accepted[0]}")
    return (
        f"{key} would have no effect: it is read where {other} is {values}, and here it is "
        f"{json.dumps(value)}. {remedy}, or leave {key} out"
    )


def _value(file: Section, dotted: str) -> Any:
    section, key = dotted.split(".")
    return getattr(getattr(file, section), key)
