"""What the verbs print."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from batchgen.errors import SchedulerSilent
from batchgen.launch.batch_script import script
from batchgen.launch.elements import count_elements, refuse_shape
from batchgen.planning import Plan, software
from batchgen.run import RunDirectory, load_plan
from batchgen.settings import Job, Site
from batchgen.shard import published_shards, unpublished_records
from batchgen.slurm import Queue, test_only
from batchgen.view.last_words import last_words
from batchgen.view.roster import take_roll
from batchgen.view.status import Status
from batchgen.view.units import data_size, duration

MANY = 20  # problems or failures shown in full


def show_plan(console: Console, plan: Plan, job: Job, memory: str = "") -> None:
    """Everything a person wants to know before a GPU is touched.

    :param memory: what is needed of a device, "" for nothing.
    """
    table = Table("size", "steps", "negative", "pictures", box=None, pad_edge=False)
    for shape in plan.shapes[:MANY]:
        table.add_row(
            f"{shape.width}×{shape.height}",
            str(shape.steps),
            "yes" if shape.negative else "no",
            f"{shape.pictures:,}",
        )
    console.print(
        f"{plan.rows:,} rows, {plan.pictures:,} pictures, from {names(plan.manifest)}",
        soft_wrap=True,
    )
    console.print(table)
    if len(plan.shapes) > MANY:
        console.print(f"… and {len(plan.shapes) - MANY} more")
    batch = job.engine.batch_size
    full = plan.pictures / (plan.groups * batch)
    console.print(f"\nshards     {len(plan.shards):,} of {plan.shards[0].pictures:,} pictures")
    console.print(f"groups     {plan.groups:,} of up to {batch}, {full:.0%} full on average")
    console.print(
        f"model      {'test cards' if job.engine.kind == 'pattern' else job.model.path}",
        soft_wrap=True,
    )
    console.print(
        f"time       {duration(plan.seconds)} on one, {duration(plan.seconds / len(plan.shards))} at best, assuming {plan.speed}",
        soft_wrap=True,
    )
    console.print(f"size       {data_size(plan.bytes)} of {job.output.format}, roughly")
    if memory:
        console.print(f"memory     {memory}", soft_wrap=True)
    if plan.over_long:
        console.print(
            f"truncated  {plan.over_long:,} prompts are longer than {job.model.max_sequence_length} tokens and will be cut"
        )
    console.print("\nEvery row is valid. Nothing was written.")


def show_script(console: Console, plan: Plan, job: Job, site: Site, root: Path) -> None:
    """The batch script that `submit` would send, and what SLURM thinks of it.

    :raises SiteError: the job does not fit the site, or SLURM would refuse it.
    """
    refuse_shape(site, job)
    ranks = job.parallel.degree
    elements = count_elements(site, ranks, len(plan.shards))
    text = script(site, root.resolve(), plan.run, elements, ranks)
    workers, nodes = elements * site.workers(ranks), elements * site.span(ranks)
    console.print(
        f"\n{workers} workers on {nodes} nodes, {site.time} at a time. The batch script:\n\n{text}\n",
        soft_wrap=True,
    )
    try:
        console.print(f"SLURM would take it: {test_only(text)}", soft_wrap=True)
    except SchedulerSilent as silent:
        console.print(f"SLURM did not check it: {silent}", soft_wrap=True)


def show_status(console: Console, status: Status) -> None:
    """The status for people."""
    console.print(f"{status.state}: {status.cause}", soft_wrap=True)
    counts = f"{status.ok:,} ok, {status.failed:,} failed, {status.pending:,} pending of {status.rows:,} pictures"
    in_progress = (
        f" ({status.in_progress:,} of the pending are written but not published)"
        if status.in_progress
        else ""
    )
    console.print(counts + in_progress, soft_wrap=True)
    console.print(
        f"{status.shards_done:,} of {status.shards:,} shards, {data_size(status.tar_bytes)}"
    )
    if status.pictures_per_device_hour:
        left = f", about {duration(status.left_s)} left" if status.left_s else ""
        console.print(f"{status.pictures_per_device_hour:,.0f} pictures per device-hour{left}")
    if status.used_s:
        console.print(_device_hours(status), soft_wrap=True)
    if status.dead and status.state != "complete":
        console.print(
            f"{status.dead} workers died and were not replaced: batchgen logs {status.run}",
            soft_wrap=True,
        )
    for line in status.last_words if status.state != "stalled" else ():  # there they are the cause
        console.print(f"  {line}", soft_wrap=True)
    for cause, count in sorted(status.failures.items()):
        console.print(f"  {count:,} × {cause}")
    if status.state == "complete":
        console.print(f"pictures       {status.run}/data/*.tar", soft_wrap=True)
        if status.ok:
            console.print(f"contact sheet  {status.run}/contact.jpg", soft_wrap=True)
        console.print(f"dataset card   {status.run}/README.md", soft_wrap=True)
    else:
        console.print(f"next: {status.next}", soft_wrap=True)


def _device_hours(status: Status) -> str:
    """What the run has cost, what of it became pictures, and what is still to come."""
    left = f", about {duration(status.to_go_s)} to go" if status.to_go_s else ""
    return f"{duration(status.used_s)} of devices used, {duration(status.wasted_s)} of it not on published pictures{left}"


def show_software(console: Console, plan: Plan) -> None:
    """Tell of packages that changed since the run was planned."""
    now = software()
    for package, version in plan.software.items():
        if now.get(package) != version:
            console.print(
                f"note: {package} was {version} when the run was planned and is {now.get(package)} now: pictures may differ slightly"
            )


def show_logs(console: Console, directory: RunDirectory, worker: int | None, lines: int) -> None:
    """The tails of the workers' logs."""
    pattern = "*.log" if worker is None else f"*-worker-{worker:03d}.log"
    paths = sorted(directory.logs.glob(pattern))
    if not paths:
        console.print(f"No log {pattern} in {directory.logs}.", soft_wrap=True)
    for path in paths:
        _show_tail(console, path, path.read_text(errors="replace").splitlines(), lines)
    for path in sorted(directory.jobs.glob("*/submitit/*_log.out")) if worker is None else ():
        words = [
            line
            for line in path.read_text(errors="replace").splitlines()
            if "submitit INFO" not in line
        ]
        if words:  # of a batch script, or of a task before it was a worker
            _show_tail(console, path, words, lines)


def _show_tail(console: Console, path: Path, text: list[str], lines: int) -> None:
    console.print(f"── {path}", soft_wrap=True)
    console.print("\n".join(text[-lines:] if lines else text), soft_wrap=True, markup=False)


def show_failures(console: Console, directory: RunDirectory) -> None:
    """All failures so far, each with its reason."""
    shown = 0
    for row in _failures(directory):
        name = f" id {row['id']!r}" if row["id"] else ""
        console.print(
            f"{row['key']:09d} row {row['row']}{name}: {row['cause']}: {row['error']}",
            soft_wrap=True,
        )
        console.print(
            f"    {row['prompt'][:200]!r} on {row['host']}, worker {row['worker']}", soft_wrap=True
        )
        shown += 1
    if not shown:
        console.print("No picture has failed.")


def show_last_words(console: Console, directory: RunDirectory) -> None:
    """Of workers that died, gave up or never came."""
    for line in last_words(
        directory, take_roll(directory, load_plan(directory).run, Queue(enough=1))
    ):
        console.print(line, soft_wrap=True)


def _failures(directory: RunDirectory) -> Iterator[dict[str, Any]]:
    """Records of failed pictures: the published ones, then those of shards in progress."""
    columns = ["key", "row", "id", "cause", "error", "prompt", "host", "worker"]
    for shard in sorted(published_shards(directory)):
        yield from pq.read_table(
            directory.metadata(shard), columns=columns, filters=[("outcome", "=", "failed")]
        ).to_pylist()
    yield from (
        asdict(record) for record in unpublished_records(directory) if record.outcome == "failed"
    )


def show_findings(
    console: Console, directory: RunDirectory, plan: Plan, verdicts: Iterable[tuple[int, list[str]]]
) -> bool:
    """Print what `verify` finds; whether all is sound."""
    checked = bad = 0
    for shard, problems in verdicts:
        checked += 1
        bad += bool(problems)
        for problem in problems[:MANY]:
            console.print(f"shard {shard:06d}: {problem}", soft_wrap=True, markup=False)
    missing = len(plan.shards) - checked
    console.print(
        f"{checked - bad:,} shards are sound, {bad:,} are not, {missing:,} are not done yet"
    )
    if bad:
        console.print(
            "To make a shard again, move its data/NUMBER.tar, metadata/NUMBER.parquet and .batchgen/done/…/NUMBER.json away, then: "
            f"batchgen resume {directory.root}",
            soft_wrap=True,
        )
    return bad == 0


def names(files: tuple[str, ...]) -> str:
    return files[0] if len(files) == 1 else f"{len(files)} files, {files[0]} …"
