"""Which columns of a file are read as which of the contract, and which travel along.

A column is read as the contract's column of the same name. `[manifest] columns` (`--column`) says
otherwise: `prompt = "caption"` reads `caption` as the prompt, and a column `prompt` then travels;
`seed = ""` reads no seed; `seeds = ""` says that the file's column `seeds` shall travel, which is
asked about otherwise (near_misses.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa

from batchgen.errors import JobError, ManifestError, one_line, shell_command
from batchgen.manifest.contract import COLUMNS, is_accepted, join_types, plain
from batchgen.manifest.find import kind_of
from batchgen.manifest.near_misses import near_misses

# `[manifest] columns` where it says nothing.
BY_NAME: Mapping[str, str] = MappingProxyType({})
_LISTED = 20


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a file."""

    # Column of the contract → column of the file that is read as it, in the contract's order.
    used: dict[str, str]
    # The other columns of the file → their types without encodings, in the file's order.
    travelling: dict[str, pa.DataType]


def used_columns(names: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """Say which columns are read: column of the contract → column of the file.

    :param names: all columns of the file.
    :param mapping: `[manifest] columns`.
    """
    present, elsewhere = set(names), set(mapping.values())
    # A column that is named for one purpose serves no other one by its own name.
    wanted = {name: mapping.get(name, "" if name in elsewhere else name) for name in COLUMNS}
    return {name: column for name, column in wanted.items() if column and column in present}


def deciding(mapping: Mapping[str, str]) -> dict[str, str]:
    """The part of `[manifest] columns` that decides pictures: what is read as the contract's."""
    return {name: column for name, column in mapping.items() if name in COLUMNS}


def column_label(name: str, column: str) -> str:
    """Name a column of the file that is read as the contract's column `name`, for messages."""
    return one_line(column) if name == column else f"{one_line(column)} (read as {name})"


def list_columns(names: Sequence[str]) -> str:
    """Name columns, the first of many."""
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    return (", ".join(one_line(name) or "''" for name in islice(names, _LISTED)) or "none") + more


def find_columns(
    schema: pa.Schema, file: str | Path, mapping: Mapping[str, str] = BY_NAME
) -> Columns:
    """Return a file's columns, checked against the contract.

    :param mapping: `[manifest] columns`.
    :raises ManifestError: two columns have one name, `prompt` is missing, a column that is read has
        another type, or the name of one that would travel looks like one of the contract.
    :raises JobError: `mapping` names columns that are not there.
    """
    names = _readable_names(schema, file)
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ManifestError(
            f"{file}, column {one_line(twice[0])}: stands twice; column names must differ. "
            f"Columns found: {list_columns(names)}"
        )
    _check_mapping(names, file, mapping)
    used, types = used_columns(names, mapping), dict(zip(names, schema.types, strict=True))
    if wrong := [*_questions(names, file, used, mapping), *_wrong_types(types, file, used)]:
        raise ManifestError("\n".join(wrong))
    read = set(used.values())
    return Columns(used, {name: plain(types[name]) for name in names if name not in read})


def _readable_names(schema: pa.Schema, file: str | Path) -> list[str]:
    """Return the columns' names.

    :raises ManifestError: one, or one inside of a column, is not UTF-8.
    """
    try:
        schema.to_string(show_field_metadata=False, show_schema_metadata=False)
        return list(schema.names)
    except UnicodeDecodeError:
        raise ManifestError(
            f"{file}: the name of a column is not UTF-8; name the columns again, or copy the file "
            "again if it is damaged"
        ) from None


def _check_mapping(names: Sequence[str], file: str | Path, mapping: Mapping[str, str]) -> None:
    """Check that `[manifest] columns` names columns of the contract and of the file.

    :raises JobError: it does not.
    """
    present = set(names)
    for name, column in mapping.items():
        option = shell_command("--column", f"{name}={column}") + " ([manifest] columns)"
        if column and name not in COLUMNS:
            raise JobError(
                f"{option}: {one_line(name)} is no column that batchgen reads; expected "
                f"COLUMN=YOURS with one of {', '.join(COLUMNS)}, or YOURS= to let a column travel"
            )
        if (column or name) not in present:
            raise JobError(
                f"{option}: {file} has no column {one_line(column or name)}. "
                f"Columns found: {list_columns(names)}"
            )


def _questions(
    names: Sequence[str], file: str | Path, used: Mapping[str, str], mapping: Mapping[str, str]
) -> Iterator[str]:
    """Ask for a missing prompt, and about names that nearly are the contract's."""
    found = near_misses(names, used, mapping)
    if "prompt" not in used:
        asked = any("prompt" in meant for meant in found.values())
        told = "" if asked else " Say which it is, for example with --column prompt=caption."
        if kind_of(Path(file)) == "csv":
            told += " The first line names the columns; a prompt a line, without names, is a .txt."
        yield (
            f"{file}: no column prompt (string), the one that is required. "
            f"Columns found: {list_columns(names)}.{told}"
        )
    for column, meant in found.items():
        options = [shell_command("--column", f"{name}={column}") for name in meant]
        travel = shell_command("--column", f"{column}=")
        yield (
            f"{file}, column {one_line(column)}: did you mean {' or '.join(meant)}? "
            f"{', or '.join(options)}, or {travel} to let it travel"
        )


def _wrong_types(
    types: Mapping[str, pa.DataType], file: str | Path, used: Mapping[str, str]
) -> Iterator[str]:
    for name, column in used.items():
        if not is_accepted(types[column], name):
            found, travel = one_line(str(types[column])), ""
            if name == column != "prompt":
                travel = f"; {shell_command('--column', f'{name}=')} lets it travel along"
            yield (
                f"{file}, column {column_label(name, column)}: found type {found}, "
                f"expected {COLUMNS[name].accepted_types}{travel}"
            )


def agree(files: Sequence[tuple[str | Path, Columns]]) -> Columns:
    """Return the columns that all files share.

    A column that only some files have is refused: the other files' rows would take the job's
    default without anybody being told. A travelling column without any value, whose type is null
    (or holds null, as that of a list that is always empty), agrees with every type.

    :raises ManifestError: two files differ; the message names both and the column.
    """
    first_file, first = files[0]
    travelling = dict(first.travelling)
    # The file that each type comes from.
    origins = dict.fromkeys(travelling, first_file)
    for file, found in files[1:]:
        _refuse_missing(first_file, first, file, found)
        for name, type_ in found.travelling.items():
            before = travelling[name]
            travelling[name] = join_types(before, type_)
            if pa.types.is_null(before):
                origins[name] = file
            if travelling[name] is None:
                raise ManifestError(
                    f"{file}, column {one_line(name)}: type {one_line(str(type_))}, but "
                    f"{one_line(str(before))} in {origins[name]}; files of one manifest "
                    "must agree on types"
                )
    return Columns(first.used, travelling)


def _refuse_missing(
    one_file: str | Path, one: Columns, other_file: str | Path, other: Columns
) -> None:
    """Refuse a column that only one of two files has.

    :raises ManifestError: there is one.
    """
    names = [{*columns.used.values(), *columns.travelling} for columns in (one, other)]
    for name in sorted(names[0] ^ names[1]):
        has, lacks = (one_file, other_file) if name in names[0] else (other_file, one_file)
        raise ManifestError(
            f"{lacks}, column {one_line(name)}: missing, but {has} has it; "
            "files of one manifest must have the same columns"
        )
