"""What people are told: sentences, and errors with their exit codes."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from batchgen.durable import is_full
from batchgen.errors import BatchgenError, InputError, RunStopped, brief, one_line, printable
from batchgen.shortage import name_shortage

if TYPE_CHECKING:
    from rich.console import Console


# What a file is called while it is written (durable.py).
_TEMPORARY = re.compile(r"\.([^/]+)\.[0-9a-f]{32}\.tmp$")
_EXPECTED = {
    errno.ENOENT: "It is not there, or the folder that it would be written to is not.",
    errno.ENOTDIR: "A folder is expected here, and there is a file.",
    errno.EISDIR: "A file is expected here, and there is a folder: name a file in it.",
    errno.EACCES: "You may not read or write it: name another, or ask its owner.",
    errno.EROFS: "Nothing can be written there: name another place.",
}


def terminal(*, stderr: bool = False) -> Console:
    """Where people read. A program that reads standard output leaves them standard error."""
    from batchgen.view.console import open_console

    return open_console(stderr=stderr)


def say(text: str) -> None:
    """Print a sentence, which the terminal wraps."""
    terminal().print(text, soft_wrap=True)


@contextmanager
def errors() -> Iterator[None]:
    """Show a BatchgenError to the user: its message without a traceback, and its exit code."""
    try:
        yield
    except BatchgenError as error:
        _complain(str(error))
        raise typer.Exit(error.exit_code) from None
    except OSError as error:
        # A rename names two files, and what people asked for is the second.
        name = _TEMPORARY.sub(r"\1", str(error.filename2 or error.filename or ""))
        where = f"{one_line(name)}: " if name else ""
        if is_full(error):
            short = name_shortage(error, Path(error.filename or ".").absolute().parent)
            remedy = f"Nothing is lost: {short.remedy}, then type the command again"
            _complain(f"{where}{short.told}. {remedy}")
            raise typer.Exit(RunStopped.exit_code) from None
        if not where:
            raise
        _complain(f"{where}{error.strerror}. {_EXPECTED.get(error.errno or 0, '')}".rstrip())
        raise typer.Exit(InputError.exit_code) from None


def _complain(text: str) -> None:
    # What was given may be a megabyte. The longest path, and so every command to type, has less.
    lines = (brief(line, 5_000) for line in printable(text).split("\n"))
    sys.stderr.write("batchgen: " + "\n".join(lines) + "\n")
