"""Verbs that plan and make."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from batchgen import operations
from batchgen.cli.continuing import go
from batchgen.cli.options import (
    Columns,
    Detach,
    JobFile,
    Json,
    Manifest,
    Rehearse,
    Settings,
    SiteFile,
)
from batchgen.cli.telling import errors, say, terminal
from batchgen.errors import counted


def plan(
    manifest: Manifest,
    job: JobFile = None,
    site: SiteFile = None,
    settings: Settings = None,
    columns: Columns = None,
    rehearse: Rehearse = False,
    measure: Annotated[
        bool,
        typer.Option("--measure", help="Make a few groups here first, so that the time is known."),
    ] = False,
    json: Json = False,
) -> None:
    """Check every row, show what would happen, write nothing.

    It shows sizes, shards, groups, memory, time and bytes; with --site, the batch script too. With
    --measure it makes a few groups in a temporary folder, and remembers the pace of this machine
    for later plans.
    """
    with errors():
        from batchgen import planning
        from batchgen.settings import load_site
        from batchgen.view.show_plan import plan_to_json, show_plan, show_script

        profile = load_site(site) if site else None
        asked = operations.read_job(job, settings or [], columns or [], rehearse=rehearse)
        hardware = operations.planned_devices(profile, asked, measure=measure)
        located, checkpoint = planning.locate_model(asked)
        planning.refuse_impossible(located, checkpoint, hardware)
        planned = planning.dry_run(manifest, located, checkpoint)
        planning.refuse_open_licence(located.output, planned.made_with)
        planning.refuse_unfit(located, checkpoint, planned, hardware)
        if measure and checkpoint:
            from batchgen.calibration import Measuring, measure_pace

            console = terminal(stderr=json)
            measure_pace(
                manifest, Measuring(planned, located, checkpoint, hardware, console, sys.argv)
            )
        memory = planning.describe_memory(located, checkpoint, planned, hardware)
        outlook = operations.outlook_of(planned, profile, asked, hardware)
        layout = planning.describe_layout(located, checkpoint, planned, outlook)
        if json:
            sys.stdout.write(plan_to_json(planned, asked, outlook, memory, layout) + "\n")
            return
        show_plan(terminal(), planned, asked, outlook, memory, layout)
        if profile:
            root = operations.default_root(manifest[0], rehearse=rehearse)
            show_script(terminal(), planned, asked, profile, root)


def submit(
    manifest: Manifest,
    job: JobFile = None,
    site: SiteFile = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; default runs/NAME of the manifest.")
    ] = None,
    settings: Settings = None,
    columns: Columns = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="A trial: only the first N pictures of the manifest."
        ),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="A trial: N pictures from all over the manifest."),
    ] = None,
    rehearse: Rehearse = False,
    detach: Detach = False,
) -> None:
    """Make the pictures of a manifest, here or on a cluster.

    With --site they are made on a SLURM cluster. The same command again continues where it stopped;
    after a trial, without --limit or --sample, with the rest.
    """
    with errors():
        from batchgen.settings import load_site

        root = (out or operations.default_root(manifest[0], rehearse=rehearse)).expanduser()
        profile = load_site(site) if site else None
        asked = operations.read_job(job, settings or [], columns or [], rehearse=rehearse)
        planned = operations.plan_run(manifest, profile, asked, root, limit=limit, sample=sample)
        run = planned.run
        if not planned.new:
            say(f"{root} was planned before from the same inputs: continuing it.")
        shards = counted(len(run.plan.shards), "shard")
        say(f"{counted(run.plan.pictures, 'picture')} in {shards} → {root}")
        if run.plan.left:
            say(f"A trial: {counted(run.plan.left, 'picture')} of the manifest are left.")
        if run.plan.read_as:
            say(f"The manifest was read as {run.plan.read_as}.")
        for note in run.plan.notes:
            say(f"note: {note}")
        with planned.unless_started():
            go(run, profile, detach=detach)


def calibrate(
    manifest: Manifest,
    job: JobFile = None,
    site: SiteFile = None,
    out: Annotated[
        Path | None, typer.Option(help="Its folder; default runs/calibrate-NAME of the manifest.")
    ] = None,
    settings: Settings = None,
    columns: Columns = None,
    pictures: Annotated[int, typer.Option(min=2, help="How many pictures the sample has.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws another sample.")] = 0,
    min_psnr: Annotated[
        float,
        typer.Option(
            min=0, max=98, help="Least PSNR in dB, against the picture made without a cache."
        ),
    ] = 40.0,
    min_ssim: Annotated[float, typer.Option(min=0, max=1, help="Least SSIM, likewise.")] = 0.98,
    share: Annotated[
        float,
        typer.Option(min=0.01, max=0.999, help="Share of unseen pictures that must keep both."),
    ] = 0.95,
    tolerances: Annotated[
        list[float] | None,
        typer.Option("--tolerance", help="Try multistep with this, not the usual grid."),
    ] = None,
    thresholds: Annotated[
        list[float] | None, typer.Option("--threshold", help="Try first_block with this, likewise.")
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
    """Find the quickest cache setting that is good enough.

    It must keep --min-psnr and --min-ssim on a sample of the manifest. Every setting makes the
    sample in a run, from careful to bold, until one falls below the floor; with --site all are
    submitted at once. The same command again continues. Writes a table, a plot and a job file with
    the choice.
    """
    with errors():
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
        asked = operations.read_job(job, settings or [], columns or [], rehearse=rehearse)
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
        maker = Maker(profile, checkpoint, hardware, terminal(), sys.argv)
        try:
            grid, tried = try_settings(
                grid, floor, maker.make, terminal(), wait=profile is None, search=search.run
            )
        except Unmade as unmade:
            raise typer.Exit(unmade.exit_code) from None
        model = ModelDigest.of(located, checkpoint) if checkpoint else None
        report = Report(asked, tuple(manifest), sample, seed, floor, tried, grid, model)
        show_calibration(terminal(), report, write_report(root, report))
