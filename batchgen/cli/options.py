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
    typer.Option(help="TOML job file, or flux-dev, …; without it, the embedded tiny model."),
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
        help="Read a column of yours as one of ours, as in prompt=caption; YOURS= lets it travel.",
    ),
]
Rehearse = Annotated[
    bool, typer.Option("--rehearse", help="Draw test cards, without a model: try a run in seconds.")
]
SiteFile = Annotated[
    Path | None, typer.Option(help="SLURM site profile, as slurm/example.toml; else this machine.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object.")]
Detach = Annotated[bool, typer.Option("--detach", help="Return at once; the run goes on.")]
