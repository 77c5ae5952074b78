"""Verbs that copy a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchgen.cli.options import RunFolder
from batchgen.cli.telling import errors, say
from batchgen.errors import counted


def split(
    run: RunFolder,
    folder: Annotated[Path, typer.Argument(help="Where the copy is made: a new folder.")],
) -> None:
    """Copy a complete run with tars for each split, so that Hugging Face shows its splits."""
    with errors():
        from batchgen.dataset import split_run
        from batchgen.run import inspect_run

        counts = split_run(inspect_run(run), folder.expanduser())
        for name, pictures in counts.items():
            say(f"{name}  {counted(pictures, 'picture')}")
        say(f"dataset card  {folder / 'README.md'}")
