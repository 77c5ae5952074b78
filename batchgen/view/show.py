"""What the verbs print."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from batchgen.dataset import Finding
from batchgen.errors import SchedulerSilent, counted, shell_command
from batchgen.launch.batch_script import script
from batchgen.launch.elements import count_elements, refuse_shape
from batchgen.manifest import column_label, list_columns
from batchgen.planning import Plan, software
from batchgen.regular_file import read_regular
from batchgen.run import Run, RunDirectory, load_plan, own_lines, refuse_letters
from batchgen.settings import Job, Site
from batchgen.shard import Loss, published_shards, read_metadata, unpublished_records
from batchgen.slurm import Queue, test_only
from batchgen.units import data_size, duration
from batchgen.view.last_words import last_words
from batchgen.view.roster import take_roll
from batchgen.view.status import Status

# Sizes of a plan and problems of a shard that are shown.
MANY = 20


def _print(console: Console, lines: Iterable[str]) -> None:
    """Print lines that the terminal, not rich, wraps: they can be copied whole."""
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


def show_plan(console: Console, plan: Plan, job: Job, memory: str = "") -> None:
    """Everything a person wants to know before a device is touched.

    :param memory: what is needed of a device; "" for nothing.
    """
    first = plan.manifest[0]
    manifest = first if len(plan.manifest) == 1 else f"{len(plan.manifest)} files, {first} …"
    rows = f"{counted(plan.rows, 'row')}, {counted(plan.pictures, 'picture')}, from {manifest}"
    _print(console, [rows])
    table = Table("size", "steps", "negative", "pictures", box=None, pad_edge=False)
    for shape in plan.shapes[:MANY]:
        size, negative = f"{shape.width}×{shape.height}", "yes" if shape.negative else "no"
        table.add_row(size, str(shape.steps), negative, f"{shape.pictures:,}")
    console.print(table)
    _print(console, _plan_lines(plan, job, memory))


def _plan_lines(plan: Plan, job: Job, memory: str) -> Iterator[str]:
    if len(plan.shapes) > MANY:
        yield f"… and {len(plan.shapes) - MANY} more"
    batch = job.engine.batch_size
    full = plan.pictures / (plan.groups * batch)
    all_s, shard_s = duration(plan.seconds), duration(plan.seconds / len(plan.shards))
    yield ""
    if plan.read_as:
        yield f"read as    {plan.read_as}"
    read = [column_label(name, column) for name, column in plan.columns.items()]
    yield f"columns    {', '.join(read)}"
    if plan.travelling:
        yield f"travelling {list_columns(plan.travelling)}"
    yield f"shards     {len(plan.shards):,} of {counted(plan.shards[0].pictures, 'picture')}"
    yield f"groups     {plan.groups:,} of up to {batch}, {full:.0%} full on average"
    yield f"model      {'test cards' if job.engine.kind == 'pattern' else job.model.path}"
    yield f"time       {all_s} on one, {shard_s} at best, assuming {plan.speed}"
    yield f"size       {data_size(plan.bytes)} of {job.output.format}, roughly"
    if memory:
        yield f"memory     {memory}"
    if share := job.audited_share:
        again = f"{share:.2%} of the pictures, about {share * plan.pictures:,.0f}"
        yield f"audit      {again}, are made once more without the cache, and compared"
    if plan.over_long:
        prompts = counted(plan.over_long, "prompt is", "prompts are")
        tokens = job.model.max_sequence_length
        yield f"truncated  {prompts} longer than {tokens} tokens and will be cut"
    yield from (f"note       {note}" for note in plan.notes)
    yield "\nEvery row is valid. Nothing was written."


def show_script(console: Console, plan: Plan, job: Job, site: Site, root: Path) -> None:
    """The batch script that `submit` would send, and what SLURM says about it.

    :raises SiteError: the job does not fit the site, or SLURM would refuse it.
    :raises OutputError: SLURM would read the run's path differently.
    """
    refuse_shape(site, job)
    refuse_letters(root.resolve())
    ranks = job.parallel.degree
    elements = count_elements(site, ranks, len(plan.shards))
    text = script(site, root.resolve(), plan.run, elements, ranks)
    workers, nodes = elements * site.workers(ranks), elements * site.span(ranks)
    where = f"\n{counted(workers, 'worker')} on {counted(nodes, 'node')}, {site.time} at a time."
    _print(console, [f"{where} The batch script:\n\n{text}\n"])
    try:
        answer = f"SLURM would take it: {test_only(text)}"
    except SchedulerSilent as silent:
        answer = f"SLURM did not check it: {silent}"
    _print(console, [answer])


def show_status(console: Console, status: Status) -> None:
    """The status for people."""
    _print(console, _status_lines(status))


def _status_lines(status: Status) -> Iterator[str]:
    yield f"{status.state}: {status.cause}"
    written = f" ({status.in_progress:,} of the pending are written but not published)"
    yield (
        f"{status.ok:,} ok, {status.failed:,} failed, {status.pending:,} pending "
        f"of {counted(status.pictures, 'picture')}{written if status.in_progress else ''}"
    )
    shards = counted(status.shards, "shard")
    yield f"{status.shards_done:,} of {shards}, {data_size(status.tar_bytes)}"
    if status.pictures_per_device_hour:
        left = f", about {duration(status.left_s)} left" if status.left_s else ""
        yield f"{status.pictures_per_device_hour:,.0f} pictures per device-hour{left}"
    if status.used_s:
        wasted = f"{duration(status.wasted_s)} of it not on published pictures"
        audits = f", {duration(status.audit_s)} on audits" if status.audit_s else ""
        left = f", about {duration(status.to_go_s)} to go" if status.to_go_s else ""
        yield f"{duration(status.used_s)} of devices used, {wasted}{audits}{left}"
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
        _print(console, [f"note: {versions}: pictures may differ slightly"])


def show_logs(console: Console, directory: RunDirectory, worker: int | None, lines: int) -> None:
    """The ends of the workers' logs, and of what batch scripts printed.

    :param worker: None for all.
    :param lines: of each log; 0 for all.
    """
    pattern = "*.log" if worker is None else f"*-worker-{worker:03d}.log"
    logs = {
        path: read_regular(path).decode(errors="replace").splitlines()
        for path in sorted(directory.logs.glob(pattern))
        if path.is_file()
    }
    if not logs:
        _print(console, [f"No log {pattern} in {directory.logs}."])
    if worker is None:
        scripts = sorted(directory.jobs.glob("*/submitit/*_log.out"))
        logs |= {path: own for path in scripts if (own := own_lines(path))}
    for path, text in logs.items():
        _print(console, [f"── {path}", "\n".join(text[-lines:])])


def show_failures(console: Console, directory: RunDirectory) -> None:
    """All pictures that have failed so far, each with its reason."""
    shown = 0
    for row in _failures(directory):
        name = f" id {row['id']!r}" if row["id"] else ""
        picture = f"{row['key']:09d} row {row['row']}{name}"
        where = f"on {row['host']}, worker {row['worker']}"
        reason = f"{picture}: {row['cause']}: {row['error']}"
        _print(console, [reason, f"    {row['prompt'][:200]!r} {where}"])
        shown += 1
    rows = "Rows are counted from 0, over all files of the manifest."
    _print(console, [rows if shown else "No picture has failed."])


def _failures(directory: RunDirectory) -> Iterator[dict[str, Any]]:
    """Records of failed pictures: the published ones, then those of shards in progress."""
    columns = ["key", "row", "id", "cause", "error", "prompt", "host", "worker"]
    failed = [("outcome", "=", "failed")]
    for shard in sorted(published_shards(directory)):
        table = read_metadata(directory.metadata(shard), columns, failed)
        yield from table.to_pylist()
    for record in unpublished_records(directory):
        if record.outcome == "failed":
            yield asdict(record)


def show_last_words(console: Console, directory: RunDirectory) -> None:
    """Why workers died, were given up or never came."""
    roster = take_roll(directory, load_plan(directory).run, Queue(enough=1))
    _print(console, last_words(directory, roster))


def show_findings(console: Console, run: Run, findings: Iterable[Finding], trouble: str) -> bool:
    """Print what `verify` finds.

    :param trouble: why the run was not compared with its manifest; "" if it was.
    :return: whether run and shards are sound.
    """
    checked = bad = wrong = 0
    for finding in findings:
        of_shard = finding.shard is not None
        checked, bad = checked + of_shard, bad + (of_shard and bool(finding.problems))
        wrong += len(finding.problems)
        where = f"shard {finding.shard:06d}: " if finding.shard is not None else ""
        _print(console, (f"{where}{problem}" for problem in finding.problems[:MANY]))
    sound = counted(checked - bad, "shard is", "shards are")
    others = (
        counted(count, "is not", "are not") for count in (bad, len(run.plan.shards) - checked)
    )
    if trouble:
        _print(console, [f"Not compared with the manifest, but with the plan alone: {trouble}"])
    _print(console, [f"{sound} sound, {', '.join(others)} done yet"])
    return wrong == 0


def show_repair(console: Console, run: Run, aside: Path, shards: Sequence[int]) -> None:
    """What was put aside, and what to type next."""
    count = counted(len(shards), "shard was", "shards were")
    resume = shell_command("batchgen", "resume", run.directory.root)
    _print(
        console,
        [
            f"{count} opened again. What was replaced is in {aside}; nothing was deleted.",
            f"To make what is missing: {resume}",
        ],
    )
