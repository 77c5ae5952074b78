"""The state of a run, or of all runs in a folder, for people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from batchgen.errors import BatchgenError, counted, one_line, shell_command
from batchgen.planning import Plan, software
from batchgen.run import RunDirectory
from batchgen.shard import Loss
from batchgen.units import data_size, duration, money
from batchgen.view.console import print_lines
from batchgen.view.status import Status, read_status


def show_status(console: Console, status: Status) -> None:
    """The status for people."""
    print_lines(console, _status_lines(status))


def _status_lines(status: Status) -> Iterator[str]:
    yield f"{status.state}: {status.cause}"
    written = f" ({status.in_progress:,} of the pending are written but not published)"
    yield (
        f"{status.ok:,} ok, {status.failed:,} failed, {status.pending:,} pending "
        f"of {counted(status.pictures, 'picture')}{written if status.in_progress else ''}"
    )
    if status.unplanned:
        yield f"a trial: {counted(status.unplanned, 'picture')} of the manifest are not planned"
    shards = counted(status.shards, "shard")
    yield f"{status.shards_done:,} of {shards}, {data_size(status.tar_bytes)}"
    if status.pictures_per_device_hour:
        left = f", about {duration(status.left_s)} left" if status.left_s else ""
        yield f"{status.pictures_per_device_hour:,.0f} pictures per device-hour{left}"
    if status.used_s:
        wasted = f"{duration(status.wasted_s)} of it not on published pictures"
        audits = f", {duration(status.audit_s)} on audits" if status.audit_s else ""
        left = f", about {duration(status.to_go_s)} to go" if status.to_go_s else ""
        cost = f" for {money(status.cost)}" if status.cost is not None else ""
        more = f" for {money(status.cost_to_go)}" if left and status.cost_to_go else ""
        yield f"{duration(status.used_s)} of devices used{cost}, {wasted}{audits}{left}{more}"
    yield from _loss_lines(status.loss)
    if status.dead and not status.finished and status.state != "queued":
        logs = shell_command("batchgen", "logs", status.run)
        dead = counted(status.dead, "worker died and was", "workers died and were")
        yield f"{dead} not replaced: {logs}"
    if status.state != "stalled":  # the cause of a stalled run has them already
        yield from (f"  {line}" for line in status.last_words)
    yield from (f"  {count:,} × {cause}" for cause, count in sorted(status.failures.items()))
    if status.state == "complete":
        yield f"pictures       {status.run}/data/*.tar"
        yield f"contact sheet  {status.run}/contact.jpg"
        yield f"report         {status.run}/report.html"
        yield f"dataset card   {status.run}/README.md"
        if status.unplanned:
            rest = shell_command("batchgen", "resume", status.run, "--rest")
            yield f"the rest       {rest}"
        if status.failed:
            retry = shell_command("batchgen", "resume", status.run, "--retry-failed")
            yield f"failed ones    {retry}"
    else:
        yield f"next: {status.next}"


def _loss_lines(loss: Loss) -> Iterator[str]:
    """What audits measured; nothing without an audit."""
    if loss.measured:
        below = f"; {loss.below:,} ({loss.below / loss.measured:.0%}) below audit.min_psnr"
        yield (
            f"{counted(loss.measured, 'picture')} also made without the cache: PSNR "
            f"{loss.psnr_mean:.1f} dB on average, {loss.psnr_worst:.1f} at worst; SSIM "
            f"{loss.ssim_mean:.4f}, {loss.ssim_worst:.4f}{below if loss.below else ''}"
        )
    if loss.unmeasured:
        count = counted(loss.unmeasured, "picture was", "pictures were")
        yield f"{count} to be compared and could not be: audit_error in the records says why"


def show_software(console: Console, plan: Plan) -> None:
    """Packages that changed since the run was planned."""
    now = software()
    changed = ((name, was) for name, was in plan.software.items() if now.get(name) != was)
    for name, was in changed:
        versions = f"{name} was {was} when the run was planned and is {now.get(name)} now"
        print_lines(console, [f"note: {versions}: pictures may differ slightly"])


def show_runs(console: Console, folder: Path) -> int:
    """A line for every run in a folder.

    :return: how many there are.
    """
    table = Table("run", "state", "ok", "failed", "pending", "size", box=None, pad_edge=False)
    found = sorted(path.parents[1] for path in folder.glob("*/.batchgen/plan.json"))
    for root in found:
        try:
            seen = read_status(RunDirectory.open(root))
        except BatchgenError as error:
            table.add_row(str(root), one_line(str(error)))
            continue
        counts = (f"{count:,}" for count in (seen.ok, seen.failed, seen.pending))
        table.add_row(str(root), seen.state, *counts, data_size(seen.tar_bytes))
    if found:
        console.print(table)
    return len(found)
