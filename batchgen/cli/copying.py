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
    sign: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="CERT KEY", help="PEM files: your certificate with those above it; its key."
        ),
    ] = None,
) -> None:
    """Copy a complete run, tars for each split, so that Hugging Face shows its splits.

    With --sign every picture gets a signed C2PA manifest. The same command again continues an
    export that was killed.
    """
    with errors():
        from batchgen.dataset import export_run, open_signer
        from batchgen.run import inspect_run

        asked = inspect_run(run)
        signer = open_signer(asked, *sign) if sign else None
        counts = export_run(asked, folder.expanduser(), signer)
        for split, pictures in counts.items():
            say(f"{split}  {counted(pictures, 'picture')}")
        say(f"dataset card  {folder / 'README.md'}")
