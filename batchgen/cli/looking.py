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
    """The runs in a folder, a line each."""
    with errors():
        from batchgen.view.show_status import show_runs

        if not show_runs(terminal(), folder):
            say(f"There is no run in {folder}.")


def status(
    run: RunFolder,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it while anyone works.")] = False,
    json: Json = False,
) -> None:
    """What is done, who lives, what to do next.

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
        bool, typer.Option("--failed", help="Failed pictures and why; dead workers' last words.")
    ] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", help="Last lines of each log; 0 for all.")
    ] = 40,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as they grow, while anyone works.")
    ] = False,
) -> None:
    """What the workers printed, or which pictures failed and why."""
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
    """The published records as JSON lines, one for every picture; or what their columns mean.

    They are the rows of RUN/metadata/*.parquet.
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
        float | None, typer.Option(min=0, help="Of a device-hour: the report then has the cost.")
    ] = None,
) -> None:
    """Write the run as one HTML page: pictures, failures, speed, settings; also while it goes on.

    A complete run has the page already.
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
    """Recount a run from its files: hashes, counts, keys against plan and manifest.

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
    """What this machine can do, or with --site each node; the remedy for what does not work.

    With --job, what the job needs and the machine lacks has failed. Exit code: 1 if a check failed.
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
