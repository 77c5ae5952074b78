"""The program: all verbs, in the order in which people meet them."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from batchgen import __version__
from batchgen.cli.continuing import cancel, extend, remake, resume
from batchgen.cli.copying import export, push
from batchgen.cli.looking import doctor, list_runs, logs, records, report, status, verify
from batchgen.cli.making import calibrate, plan, submit

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A Parquet table of prompts in, a training dataset of pictures out. Kill it anywhere: "
    "nothing is lost or made twice.\n\nTo begin: batchgen submit PROMPTS.parquet",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"batchgen {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_tell_version, help="Say which batchgen this is."
        ),
    ] = False,
) -> None: ...


# In this order `--help` lists them.
app.command()(doctor)
app.command()(plan)
app.command()(calibrate)
app.command()(submit)
app.command()(resume)
app.command()(extend)
app.command()(remake)
app.command()(status)
app.command("list")(list_runs)
app.command()(logs)
app.command()(records)
app.command()(report)
app.command()(verify)
app.command()(export)
app.command()(push)
app.command()(cancel)


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal may not know every character
            stream.reconfigure(errors="backslashreplace")
    app()
