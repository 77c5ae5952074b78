"""Verbs that copy a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchgen.cli.options import RunFolder
from batchgen.cli.telling import errors, say
from batchgen.errors import counted


def export(
    run: RunFolder,
    folder: Annotated[Path, typer.Argument(help="Where the copy is made: a new folder.")],
) -> None:
    """Copy a complete run with tars for each split, so that Hugging Face shows its splits."""
    with errors():
        from batchgen.dataset import export_run
        from batchgen.run import inspect_run

        counts = export_run(inspect_run(run), folder.expanduser())
        for split, pictures in counts.items():
            say(f"{split}  {counted(pictures, 'picture')}")
        say(f"dataset card  {folder / 'README.md'}")
