"""Arguments and options that several verbs take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Manifest = Annotated[
    list[str],
    typer.Argument(help="Parquet, CSV, TSV, JSONL, text or Arrow: files, globs, folders or URLs."),
]
RunFolder = Annotated[Path, typer.Argument(help="The run directory, for example runs/prompts.")]
JobFile = Annotated[
    Path | None,
    typer.Option(help="TOML job file, or a ready one: flux-dev, …; else the embedded tiny model."),
]
SET = "SECTION.KEY=VALUE"
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar=SET, help="Override a key of the job file.")
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="NAME=YOURS",
        help="Read your column YOURS as our NAME, as in prompt=caption; seed= reads no seed.",
    ),
]
Rehearse = Annotated[
    bool,
    typer.Option(
        "--rehearse", help="Draw test cards instead of running the model: a trial in seconds."
    ),
]
SiteFile = Annotated[
    Path | None, typer.Option(help="Profile of a SLURM cluster, as slurm/example.toml.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
Detach = Annotated[bool, typer.Option("--detach", help="Return at once; the run goes on.")]
