"""Keys that a person wrote, told apart from defaults; those that nothing reads are refused.

Whoever writes a key believes that it acts. A field declares with `setting(..., read_with=...)`
under which values of other keys it is read; a field that declares nothing is always read.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from batchgen.errors import InputError, shell_command
from batchgen.settings.section import Above0, ReadWith, Section, read_with

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


def keys_read(file: Section, section: str) -> Iterator[str]:
    """The keys of a section that are read beside the values of all others, written or not."""
    for key, field in type(getattr(file, section)).model_fields.items():
        if all(_value(file, other) in accepted for other, accepted in read_with(field).items()):
            yield key


class Unread(NamedTuple):
    """A written key that nothing reads, as `section.key`."""

    key: str
    # The key that decides about it, its value, and the values with which it would be read.
    other: str
    value: object
    accepted: ReadWith


def unread(file: Section) -> Iterator[Unread]:
    """The written keys that nothing reads, in the order of the declarations.

    :param file: as `mark_written` returns it.
    """
    for section, table in file:
        for key, field in type(table).model_fields.items():
            conditions = read_with(field) if key in table.model_fields_set else {}
            for other, accepted in conditions.items():
                if (value := _value(file, other)) not in accepted:
                    yield Unread(f"{section}.{key}", other, value, accepted)
                    break


def refuse_unread(
    file: Section, overridden: Collection[str], *, where: str, error: type[InputError]
) -> None:
    """Check that every written key is read.

    Who overrides a choice of a file, such as the format, may leave in the file what belonged to
    it: the plan tells of that.

    :param file: as `mark_written` returns it.
    :param overridden: keys that were not written in the file but with `--set`.
    :param where: the origin of the settings, for the message.
    :raises error: some keys are not read; the message says for each when it would be.
    """
    lines = [
        f"\n  {_explain(one)}"
        for one in unread(file)
        if one.key in overridden or one.other not in overridden
    ]
    if lines:
        raise error(f"{where}:{''.join(lines)}")


def _explain(one: Unread) -> str:
    here = "absent" if one.value is None else json.dumps(one.value)
    values, example = _accepted(one.accepted)
    return (
        f"{one.key} would have no effect: it is read where {one.other} is {values}, and here it is "
        f"{here}. {shell_command('--set', f'{one.other}={example}')}, or leave {one.key} out"
    )


def _accepted(accepted: ReadWith) -> tuple[str, str | bool]:
    """Values of a key in words, and one of them."""
    if isinstance(accepted, Above0):
        return "above 0", accepted.example
    *most, last = (json.dumps(value) for value in accepted)
    return f"{', '.join(most)} or {last}" if most else last, accepted[0]


def _value(file: Section, dotted: str) -> Any:
    section, key = dotted.split(".")
    return getattr(getattr(file, section), key)
