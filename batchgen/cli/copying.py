"""Verbs that give a run to others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from batchgen.cli.options import RunFolder
from batchgen.cli.telling import errors, say, terminal
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
    """Copy a complete run, with tars for each split.

    Hugging Face shows the splits of such a copy. With --sign every picture gets a signed C2PA
    manifest. The same command again continues an export that was killed.
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


def push(
    run: RunFolder,
    url: Annotated[
        str, typer.Argument(help="A folder, hf://datasets/ORG/NAME, s3://BUCKET/FOLDER, …")
    ],
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run is complete.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace shards there whose content is another.")
    ] = False,
) -> None:
    """Send the dataset to a folder, S3, GCS or the hub.

    While it is made, or when it is complete. Every file is verified there. The same command again
    sends only what is missing. Exit code: 3 if the run is incomplete, so that card and index are
    yet to come.
    """
    with errors():
        from batchgen.dataset import push_run
        from batchgen.run import RunDirectory
        from batchgen.view.show_push import show_pushed

        directory = RunDirectory.open(run)
        pushed = push_run(directory, url, follow=follow, replace=replace, tell=say)
        show_pushed(terminal(), directory, url, pushed)
    raise typer.Exit(0 if pushed.complete else 3)
