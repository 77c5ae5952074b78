"""What people are told: sentences, and errors with their exit codes."""

from __future__ import annotations

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
        where = f"{one_line(str(error.filename))}: " if error.filename else ""
        if is_full(error):
            short = name_shortage(error, Path(error.filename or ".").absolute().parent)
            remedy = f"Nothing is lost: {short.remedy}, then type the command again"
            _complain(f"{where}{short.told}. {remedy}")
            raise typer.Exit(RunStopped.exit_code) from None
        if not where:
            raise
        _complain(f"{where}{error.strerror}")
        raise typer.Exit(InputError.exit_code) from None


def _complain(text: str) -> None:
    # What was given may be a megabyte. The longest path, and so every command to type, has less.
    lines = (brief(line, 5_000) for line in printable(text).split("\n"))
    sys.stderr.write("batchgen: " + "\n".join(lines) + "\n")
