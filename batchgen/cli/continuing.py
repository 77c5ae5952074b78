"""Verbs that go on with a run, and stop it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from batchgen import generations, operations
from batchgen.cli.options import SET, Detach, RunFolder, SiteFile
from batchgen.cli.telling import errors, say, terminal
from batchgen.errors import InputError, shell_command

if TYPE_CHECKING:
    from batchgen.run import Run
    from batchgen.settings import Site

# Where pictures of a run that was complete are made.
Local = Annotated[
    bool, typer.Option("--local", help="Go on here, although the run was on a cluster.")
]


def resume(
    run: RunFolder,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar=SET, help="Change a key of [run], [audit], [splits] or [pattern]."
        ),
    ] = None,
    site: SiteFile = None,
    local: Local = False,
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
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try the pictures again that have failed.")
    ] = False,
    rest: Annotated[
        bool,
        typer.Option("--rest", help="Go on with what a trial has left: submit --limit, --sample."),
    ] = False,
    detach: Detach = False,
) -> None:
    """Make what is missing of a run that was stopped or killed.

    The run goes on where it was last, or where --site or --local say.
    """
    with errors():
        from batchgen.settings import load_site

        if retry_failed and rest:
            raise InputError("--retry-failed and --rest: give one, and the other when it is done")
        named = load_site(site) if site else None
        opened, profile = operations.reopen(
            run,
            settings or [],
            manifest or [],
            named,
            local=local,
            add=add,
            further=retry_failed or rest,
        )
        if retry_failed:
            opened, told = generations.retry_failed(opened)
            say(told)
        if rest:
            opened = generations.plan_rest(opened, operations.devices_of(profile, opened.job))
        go(opened, profile, detach=detach, add=add, steal=steal)


def extend(
    run: RunFolder,
    more: Annotated[
        list[str], typer.Argument(help="Tables with more rows: files, globs, folders or URLs.")
    ],
    site: SiteFile = None,
    local: Local = False,
    detach: Detach = False,
) -> None:
    """Append rows to a complete run, and make their pictures.

    They get new shards; what is published stays as it is. Columns must be those of the run, and ids
    differ from those that it has.
    """
    with errors():
        from batchgen.settings import load_site

        named = load_site(site) if site else None
        opened, profile = operations.reopen(run, [], [], named, local=local, add=None, further=True)
        hardware = operations.devices_of(profile, opened.job)
        opened, told = generations.extend(opened, more, hardware)
        say(told)
        go(opened, profile, detach=detach)


def remake(
    run: RunFolder,
    keys: Annotated[
        list[str],
        typer.Option("--keys", help="Keys of pictures, as 000000020,000000031, or a file of them."),
    ],
    same_seeds: Annotated[
        bool, typer.Option("--same-seeds", help="Keep their seeds: for files that a device spoilt.")
    ] = False,
    site: SiteFile = None,
    local: Local = False,
    detach: Detach = False,
) -> None:
    """Make pictures of a complete run again, with other seeds.

    They get new shards. From then on the later one counts; the earlier sample stays in its tar.
    """
    with errors():
        from batchgen.settings import load_site

        named = load_site(site) if site else None
        opened, profile = operations.reopen(run, [], [], named, local=local, add=None, further=True)
        opened, told = generations.remake(opened, keys, same_seeds=same_seeds)
        say(told)
        go(opened, profile, detach=detach)


def cancel(
    run: RunFolder,
    now: Annotated[bool, typer.Option("--now", help="End the workers at once.")] = False,
) -> None:
    """Ask a run to stop after the groups in flight. `resume` continues it."""
    with errors():
        from batchgen.launch.cancel import cancel as cancel_run
        from batchgen.run import RunDirectory

        say(cancel_run(RunDirectory.open(run), at_once=now))


def go(
    run: Run, site: Site | None, *, detach: bool, add: int | None = None, steal: bool = False
) -> None:
    """Launch workers for what is missing; on this machine, watch them and exit as `status` does."""
    from batchgen.launch.start import start
    from batchgen.view.show_status import show_software, show_status
    from batchgen.view.watch import watch

    console, seen = terminal(), operations.what_is_left(run, add)
    if not seen.finished:
        show_software(console, run.plan)
        say(start(run, site, sys.argv, add=add, steal=steal))
        if detach or site:
            say(shell_command("batchgen", "status", run.directory.root, "--watch"))
            return
        seen = watch(run, console)
    show_status(console, seen)
    raise typer.Exit(seen.exit_code)
