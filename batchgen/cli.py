"""The verbs. This file parses, calls and prints.

Each verb imports what it needs when it is called, so that `batchgen --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from batchgen import __version__, operations
from batchgen.durable import is_full
from batchgen.errors import (
    BatchgenError,
    InputError,
    RunStopped,
    brief,
    counted,
    one_line,
    printable,
    shell_command,
)
from batchgen.shortage import name_shortage

if TYPE_CHECKING:
    from rich.console import Console

    from batchgen.run import Run
    from batchgen.settings import Job, Site

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A Parquet table of prompts in, a training dataset of pictures out. Kill it anywhere: "
    "nothing is lost or made twice.",
    no_args_is_help=True,
    add_completion=False,
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


Manifest = Annotated[
    list[str],
    typer.Argument(help="Parquet, CSV, TSV, JSONL, text or Arrow: files, globs or folders."),
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


@app.command()
def plan(
    manifest: Manifest,
    job: JobFile = None,
    site: SiteFile = None,
    settings: Settings = None,
    columns: Columns = None,
    rehearse: Rehearse = False,
    json: Json = False,
) -> None:
    """Say what would happen: rows, sizes, shards, groups, time, bytes.

    With --site, the batch script too. Checks every row, writes nothing.
    """
    with _errors():
        from batchgen import planning
        from batchgen.settings import load_site
        from batchgen.view.show_plan import plan_to_json, show_plan, show_script

        profile = load_site(site) if site else None
        asked = _job(job, settings, columns, rehearse=rehearse)
        hardware = planning.of_site(profile, asked) if profile else planning.assumed(asked)
        located, checkpoint = planning.locate_model(asked)
        planning.refuse_impossible(located, checkpoint, hardware)
        planned = planning.dry_run(manifest, located, checkpoint)
        planning.refuse_unfit(located, checkpoint, planned, hardware)
        memory = planning.describe_memory(located, checkpoint, planned, hardware)
        outlook = operations.outlook_of(planned, profile, asked, hardware)
        if json:
            sys.stdout.write(plan_to_json(planned, outlook, memory) + "\n")
            return
        show_plan(_console(), planned, asked, outlook, memory)
        if profile:
            root = operations.default_root(manifest[0], rehearse=rehearse)
            show_script(_console(), planned, asked, profile, root)


@app.command()
def submit(
    manifest: Manifest,
    job: JobFile = None,
    site: SiteFile = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; default runs/NAME of the manifest.")
    ] = None,
    settings: Settings = None,
    columns: Columns = None,
    rehearse: Rehearse = False,
    detach: Detach = False,
) -> None:
    """Plan the manifest and make its pictures, here or on a cluster.

    The same command again continues where it stopped.
    """
    with _errors():
        from batchgen.settings import load_site

        root = (out or operations.default_root(manifest[0], rehearse=rehearse)).expanduser()
        profile = load_site(site) if site else None
        asked = _job(job, settings, columns, rehearse=rehearse)
        planned = operations.plan_run(manifest, profile, asked, root)
        run = planned.run
        if not planned.new:
            _say(f"{root} was planned before from the same inputs: continuing it.")
        shards = counted(len(run.plan.shards), "shard")
        _say(f"{counted(run.plan.pictures, 'picture')} in {shards} → {root}")
        if run.plan.read_as:
            _say(f"The manifest was read as {run.plan.read_as}.")
        for note in run.plan.notes:
            _say(f"note: {note}")
        with planned.unless_started():
            _go(run, profile, detach=detach)


@app.command()
def calibrate(
    manifest: Manifest,
    job: JobFile = None,
    site: SiteFile = None,
    out: Annotated[
        Path | None, typer.Option(help="Its folder; default runs/calibrate-NAME of the manifest.")
    ] = None,
    settings: Settings = None,
    columns: Columns = None,
    pictures: Annotated[int, typer.Option(min=2, help="Pictures of the sample.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Another one draws another sample.")] = 0,
    min_psnr: Annotated[
        float, typer.Option(min=0, max=98, help="dB against the picture made without a cache.")
    ] = 40.0,
    min_ssim: Annotated[float, typer.Option(min=0, max=1, help="Likewise.")] = 0.98,
    share: Annotated[
        float,
        typer.Option(min=0.01, max=0.999, help="Share of unseen pictures that must keep both."),
    ] = 0.95,
    tolerances: Annotated[
        list[float] | None,
        typer.Option("--tolerance", help="Try multistep with it, in place of the usual grid."),
    ] = None,
    thresholds: Annotated[
        list[float] | None, typer.Option("--threshold", help="Try first_block with it, likewise.")
    ] = None,
    computed: Annotated[
        list[float] | None,
        typer.Option(
            "--computed",
            min=0.01,
            max=0.99,
            help="Try schedules found for the manifest, likewise: this share of the steps is "
            "computed by the easiest class of pictures, and more by others.",
        ),
    ] = None,
    rehearse: Rehearse = False,
) -> None:
    """Find the quickest cache setting that keeps a floor, on a sample of the manifest.

    Every setting makes the sample in a run, from careful to bold, until one falls below the floor;
    with --site all are submitted at once. The same command again continues. Writes a table, a plot
    and a job file with the choice.
    """
    with _errors():
        from batchgen.calibration import (
            SHARES,
            Floor,
            Maker,
            Report,
            Search,
            Unmade,
            begin,
            grid_of,
            sample_manifest,
            show_calibration,
            try_settings,
            write_report,
        )
        from batchgen.planning import ModelDigest
        from batchgen.settings import load_site

        run = operations.default_root(manifest[0], rehearse=rehearse)
        root = (out or run.with_name(f"calibrate-{run.name}")).expanduser()
        profile = load_site(site) if site else None
        asked = _job(job, settings, columns, rehearse=rehearse)
        operations.refuse_devices(profile, asked)
        located, checkpoint, hardware = operations.locate(profile, asked)
        floor = Floor(min_psnr, min_ssim, share)
        usual = tolerances is None and thresholds is None and computed is None
        shares = SHARES if usual else sorted(set(computed or ()), reverse=True)
        if not usual:
            tolerances, thresholds = tolerances or [], thresholds or []
        grid = grid_of(root, located, tolerances, thresholds)
        sample, others = sample_manifest(manifest, located, checkpoint, pictures, seed)
        begin(root, sample)
        search = Search(root, located, sample, others, shares if checkpoint else ())
        maker = Maker(profile, checkpoint, hardware, _console(), sys.argv)
        try:
            grid, tried = try_settings(
                grid, floor, maker.make, _console(), wait=profile is None, search=search.run
            )
        except Unmade as unmade:
            raise typer.Exit(unmade.exit_code) from None
        model = ModelDigest.of(located, checkpoint) if checkpoint else None
        report = Report(asked, tuple(manifest), sample, seed, floor, tried, grid, model)
        show_calibration(_console(), report, write_report(root, report))


@app.command()
def resume(
    run: RunFolder,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar=SET, help="Change a key of [run], [audit] or [pattern]."),
    ] = None,
    site: SiteFile = None,
    local: Annotated[
        bool, typer.Option("--local", help="Go on here, although the run was on a cluster.")
    ] = False,
    manifest: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Where the manifest is now, if it was moved."),
    ] = None,
    add: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Add N workers; on a cluster, N nodes.")
    ] = None,
    steal: Annotated[
        bool,
        typer.Option("--steal", help="Take shards of workers elsewhere, which you know are dead."),
    ] = False,
    detach: Detach = False,
) -> None:
    """Make what is missing of a run that was stopped, killed or ran out of space.

    The run goes on where it was last, or where --site or --local say.
    """
    with _errors():
        from batchgen.settings import load_site

        named = load_site(site) if site else None
        opened, profile = operations.reopen(
            run, settings or [], manifest or [], named, local=local, add=add
        )
        _go(opened, profile, detach=detach, add=add, steal=steal)


@app.command()
def status(
    run: RunFolder,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it while anyone works.")] = False,
    json: Json = False,
) -> None:
    """What is done, who lives, what to do next.

    Exit code: 0 complete, 3 incomplete, 4 no good picture or over the failure budget, 5
    stalled.
    """
    with _errors():
        from batchgen.run import RunDirectory
        from batchgen.view.show_status import show_status
        from batchgen.view.status import read_status
        from batchgen.view.watch import follow

        directory = RunDirectory.open(run)
        console = _console(stderr=json)
        seen = follow(directory, console) if watch else read_status(directory)
        if json:
            sys.stdout.write(seen.to_json() + "\n")
        else:
            show_status(console, seen)
    raise typer.Exit(seen.exit_code)


@app.command("list")
def list_runs(
    folder: Annotated[Path, typer.Argument(help="Where the run directories are.")] = Path("runs"),
) -> None:
    """The runs in a folder, a line each."""
    with _errors():
        from batchgen.view.show_status import show_runs

        if not show_runs(_console(), folder):
            _say(f"There is no run in {folder}.")


@app.command()
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
    with _errors():
        from batchgen.run import RunDirectory
        from batchgen.view.show_logs import follow_logs, show_failures, show_last_words, show_logs

        directory = RunDirectory.open(run)
        if failed and (follow or worker is not None):
            raise InputError(
                "--failed lists the failures of all workers so far: leave --worker and --follow out"
            )
        if failed:
            show_failures(_console(), directory)
            show_last_words(_console(), directory)
        else:
            show = follow_logs if follow else show_logs
            show(_console(), directory, worker, lines)


@app.command()
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
    with _errors():
        from batchgen.dataset import write_report
        from batchgen.run import inspect_run

        _say(f"report  {write_report(inspect_run(run), out, price)}")


@app.command()
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
    with _errors():
        from batchgen.dataset import manifest_trouble, repair_run, verify_run
        from batchgen.run import inspect_run
        from batchgen.shard import remake
        from batchgen.view.show_checks import show_findings, show_repair

        asked = inspect_run(run)
        trouble = manifest_trouble(asked)
        findings = list(verify_run(asked, deep=deep, manifest=not trouble))
        sound = show_findings(_console(), asked, findings, trouble)
        damaged = [one.shard for one in findings if one.shard is not None and one.problems]
        if repair and (aside := repair_run(asked, damaged)):
            show_repair(_console(), asked, aside, damaged)
            again = verify_run(asked, deep=False, manifest=not trouble)
            sound = not any(one.problems for one in again)
        elif damaged:
            _say(remake(asked.directory, deep=deep))
    raise typer.Exit(0 if sound else 1)


@app.command()
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
    with _errors():
        from batchgen.doctor.show import consult
        from batchgen.settings import load_site

        asked = _job(job, settings, None, rehearse=False) if job or settings else None
        profile = load_site(site) if site else None
        console = _console(stderr=json)
        sound = consult(console, out, asked, profile, as_json=json, limit_s=wait_s)
    raise typer.Exit(0 if sound else 1)


@app.command()
def cancel(
    run: RunFolder,
    now: Annotated[bool, typer.Option("--now", help="End the workers at once.")] = False,
) -> None:
    """Ask a run to stop after the groups in flight. `resume` continues it."""
    with _errors():
        from batchgen.launch.cancel import cancel as cancel_run
        from batchgen.run import RunDirectory

        _say(cancel_run(RunDirectory.open(run), at_once=now))


def _go(
    run: Run, site: Site | None, *, detach: bool, add: int | None = None, steal: bool = False
) -> None:
    """Launch workers for what is missing; on this machine, watch them and exit as `status` does."""
    from batchgen.launch.start import start
    from batchgen.view.show_status import show_software, show_status
    from batchgen.view.watch import watch

    console, seen = _console(), operations.what_is_left(run, add)
    if not seen.finished:
        show_software(console, run.plan)
        _say(start(run, site, sys.argv, add=add, steal=steal))
        if detach or site:
            _say(shell_command("batchgen", "status", run.directory.root, "--watch"))
            return
        seen = watch(run, console)
    show_status(console, seen)
    raise typer.Exit(seen.exit_code)


def _job(
    path: Path | None, settings: list[str] | None, columns: list[str] | None, *, rehearse: bool
) -> Job:
    return operations.read_job(path, settings or [], columns or [], rehearse=rehearse)


def _console(*, stderr: bool = False) -> Console:
    from batchgen.view.console import open_console

    return open_console(stderr=stderr)


def _say(text: str) -> None:
    _console().print(text, soft_wrap=True)


@contextmanager
def _errors() -> Iterator[None]:
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


def main() -> None:
    """Entry point of the console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal may not know every character
            stream.reconfigure(errors="backslashreplace")
    app()


if __name__ == "__main__":
    main()
