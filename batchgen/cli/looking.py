"""Verbs that look at runs and machines, and mend what they find."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from batchgen import operations
from batchgen.cli.options import JobFile, Json, RunFolder, Settings, SiteFile
from batchgen.cli.telling import errors, say, terminal
from batchgen.errors import InputError


def list_runs(
    folder: Annotated[Path, typer.Argument(help="Where the run directories are.")] = Path("runs"),
) -> None:
    """List the runs in a folder, a line each."""
    with errors():
        from batchgen.view.show_status import show_runs

        if not (folder.is_dir() or folder == Path("runs")):
            raise InputError(
                f"{folder}: no such folder. Runs are made in runs, or where --out says"
            )
        if not show_runs(terminal(), folder):
            say(f"There is no run in {folder}. To make one: batchgen submit MANIFEST")


def status(
    run: RunFolder,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it live until nobody works any more.")
    ] = False,
    json: Json = False,
) -> None:
    """Show what is done, who works, what to type next.

    Exit code: 0 complete, 3 incomplete, 4 no good picture or over the failure budget, 5
    stalled.
    """
    with errors():
        from batchgen.run import RunDirectory
        from batchgen.view.show_status import show_status
        from batchgen.view.status import read_status
        from batchgen.view.watch import follow

        directory = RunDirectory.open(run)
        console = terminal(stderr=json)
        if watch:
            with suppress(KeyboardInterrupt):  # which ends the view, and not the run
                follow(directory, console)
        seen = read_status(directory)
        if json:
            sys.stdout.write(seen.to_json() + "\n")
        else:
            show_status(console, seen)
    raise typer.Exit(seen.exit_code)


def logs(
    run: RunFolder,
    worker: Annotated[int | None, typer.Option(help="Only this worker.")] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Failed pictures, and why workers died.")
    ] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", help="Last lines of each log; 0 for all.")
    ] = 40,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as the logs grow, while anyone works.")
    ] = False,
) -> None:
    """Show what workers printed, or which pictures failed.

    With --failed, each failed picture has its reason.
    """
    with errors():
        from batchgen.run import RunDirectory
        from batchgen.view.show_logs import follow_logs, show_failures, show_last_words, show_logs

        directory = RunDirectory.open(run)
        if failed and (follow or worker is not None):
            raise InputError(
                "--failed lists the failures of all workers so far: leave --worker and --follow out"
            )
        if failed:
            show_failures(terminal(), directory)
            show_last_words(terminal(), directory)
        else:
            show = follow_logs if follow else show_logs
            show(terminal(), directory, worker, lines)


def records(
    run: Annotated[Path | None, typer.Argument(help="The run's directory.")] = None,
    columns: Annotated[
        bool, typer.Option("--columns", help="Say what every column means.")
    ] = False,
) -> None:
    """Print the record of every published picture, as JSON lines.

    They are the rows of RUN/metadata/*.parquet. --columns says what their columns mean.
    """
    with errors():
        from batchgen.view.show_records import show_columns, write_records

        if columns:
            show_columns(terminal())
        elif run is None:
            raise InputError("which run? batchgen records RUN, or batchgen records --columns")
        else:
            from batchgen.run import RunDirectory

            write_records(RunDirectory.open(run), sys.stdout)


def report(
    run: RunFolder,
    out: Annotated[Path | None, typer.Option(help="The file; default report.html in RUN.")] = None,
    price: Annotated[
        float | None,
        typer.Option(min=0, max=1e6, help="Price of a device's hour: the page then has the cost."),
    ] = None,
) -> None:
    """Write the run as one HTML page.

    It has pictures, failures, speed and settings. A complete run has it already; while a run goes
    on, it shows what is published.
    """
    with errors():
        from batchgen.dataset import write_report
        from batchgen.run import inspect_run

        say(f"report  {write_report(inspect_run(run), out, price)}")


def verify(
    run: RunFolder,
    deep: Annotated[
        bool, typer.Option("--deep", help="Hash every byte and decode every picture.")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Put damaged shards aside, so that resume makes them again."),
    ] = False,
) -> None:
    """Check a run's files, and count its pictures again.

    Hashes, numbers, keys and rows are compared with the plan and the manifest.

    Exit code: 1 if anything is wrong and was not repaired.
    """
    with errors():
        from batchgen.dataset import manifest_trouble, repair_run, verify_run
        from batchgen.run import inspect_run
        from batchgen.shard import remake
        from batchgen.view.show_checks import show_findings, show_repair

        asked = inspect_run(run)
        trouble = manifest_trouble(asked)
        findings = list(verify_run(asked, deep=deep, manifest=not trouble))
        sound = show_findings(terminal(), asked, findings, trouble)
        damaged = [one.shard for one in findings if one.shard is not None and one.problems]
        if repair and (aside := repair_run(asked, damaged)):
            show_repair(terminal(), asked, aside, damaged)
            again = verify_run(asked, deep=False, manifest=not trouble)
            sound = not any(one.problems for one in again)
        elif damaged:
            say(remake(asked.directory, deep=deep))
    raise typer.Exit(0 if sound else 1)


def doctor(
    job: JobFile = None,
    site: SiteFile = None,
    out: Annotated[Path, typer.Option(help="Folder of runs, or a run's.")] = Path("runs"),
    settings: Settings = None,
    wait_s: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=0, help="How long to wait for nodes.")
    ] = 600.0,
    json: Annotated[bool, typer.Option("--json", help="A JSON object a line for each check.")] = (
        False
    ),
) -> None:
    """Check what this machine, or each node of a --site, can do.

    Each line is ok or has its remedy. With --job, it fails if the machine lacks what the job needs.
    Exit code: 1 if a check failed.
    """
    with errors():
        from batchgen.doctor.show import consult
        from batchgen.settings import load_site

        asked = (
            operations.read_job(job, settings or [], [], rehearse=False)
            if job or settings
            else None
        )
        profile = load_site(site) if site else None
        console = terminal(stderr=json)
        sound = consult(console, out, asked, profile, as_json=json, limit_s=wait_s)
    raise typer.Exit(0 if sound else 1)
