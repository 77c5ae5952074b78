"""Small JSON files of a run, read with their types checked.

They are written whole under names that appear at once, so no kill damages them. Disks and editors
do, and then a worker must not die of it again and again: who reads a file says what a damaged one
means, or raises the error of `read_state`, which a worker leaves with in good order.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from batchgen.checked_json import parse, unseal
from batchgen.errors import DamagedRun, shell_command
from batchgen.regular_file import open_regular, read_regular

Kind = TypeVar("Kind")
_LONGEST_WORDS = 4000


def read_state(path: Path, kind: type[Kind]) -> Kind:
    """The content of a file, as a dataclass, a `Section` or a type like `dict[str, int]`.

    :raises DamagedRun: the file holds something else or cannot be read; with a way on.
    :raises FileNotFoundError: there is no such file.
    """
    try:
        return parse(kind, unseal(read_regular(path)))
    except FileNotFoundError:
        raise
    except OSError as error:  # a folder or a pipe in its place, or not readable
        wrong = str(error.strerror)
    except ValueError as error:
        wrong = str(error)
    away = shell_command("mv", path, f"{path}.damaged")
    raise DamagedRun(
        f"{path}: damaged: {wrong}. No picture depends on it. Take it out of the way, then type "
        f"the command again: {away}"
    )


def read_words(path: Path) -> str:
    """What a process left in a file for people: as much as a person reads.

    Bytes that are no text are replaced. Of a file that cannot be read, it says why.
    """
    try:
        with open_regular(path) as file:
            return file.read(_LONGEST_WORDS).decode(errors="replace")
    except OSError as error:
        return f"{path}: {error.strerror}"
