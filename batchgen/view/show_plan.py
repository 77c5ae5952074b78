"""What a person wants to know before a device is touched, and the batch script."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from batchgen.errors import SchedulerSilent, counted
from batchgen.launch.batch_script import script
from batchgen.launch.elements import count_elements, refuse_shape
from batchgen.manifest import column_label, list_columns
from batchgen.planning import Outlook, Plan
from batchgen.run import refuse_letters
from batchgen.settings import Job, Site
from batchgen.slurm import test_only
from batchgen.units import data_size, duration, money
from batchgen.view.console import print_lines

# Shapes that are shown.
MANY = 20


def show_plan(
    console: Console, plan: Plan, job: Job, outlook: Outlook, memory: str = "", layout: str = ""
) -> None:
    """Everything a person wants to know before a device is touched.

    :param memory: what is needed of a device; "" for nothing.
    :param layout: what the layout of devices is for; "" for nothing.
    """
    first = plan.manifest[0]
    manifest = first if len(plan.manifest) == 1 else f"{len(plan.manifest)} files, {first} …"
    rows = f"{counted(plan.rows, 'row')}, {counted(plan.pictures, 'picture')}, from {manifest}"
    print_lines(console, [rows])
    table = Table("size", "steps", "negative", "pictures", box=None, pad_edge=False)
    for shape in plan.shapes[:MANY]:
        size, negative = f"{shape.width}×{shape.height}", "yes" if shape.negative else "no"
        table.add_row(size, str(shape.steps), negative, f"{shape.pictures:,}")
    console.print(table)
    print_lines(console, _plan_lines(plan, job, outlook, memory, layout))


def _plan_lines(plan: Plan, job: Job, outlook: Outlook, memory: str, layout: str) -> Iterator[str]:
    if len(plan.shapes) > MANY:
        yield f"… and {len(plan.shapes) - MANY} more"
    batch = job.engine.batch_size
    full = plan.pictures / (plan.groups * batch)
    yield ""
    if plan.read_as:
        yield f"read as    {plan.read_as}"
    read = [column_label(name, column) for name, column in plan.columns.items()]
    yield f"columns    {', '.join(read)}"
    if plan.travelling:
        yield f"travelling {list_columns(plan.travelling)}"
    yield f"shards     {len(plan.shards):,} of {counted(plan.shards[0].pictures, 'picture')}"
    yield f"groups     {plan.groups:,} of up to {batch}, {full:.0%} full on average"
    yield f"model      {_model(job)}"
    if plan.made_with:
        theirs = [f"{one.kind} {one.license or 'not told'}" for one in plan.made_with]
        yield f"licence    {job.output.license} of the pictures; {', '.join(theirs)}"
    yield from _outlook_lines(outlook)
    yield f"size       {data_size(plan.bytes)} of {job.output.format}, roughly"
    if memory:
        yield f"memory     {memory}"
    if layout:
        yield f"layout     {layout}"
    yield from _beside_lines(plan, job)
    if plan.over_long:
        prompts = counted(plan.over_long, "prompt is", "prompts are")
        tokens = job.model.max_sequence_length
        yield f"truncated  {prompts} longer than {tokens} tokens and will be cut"
    yield from (f"note       {note}" for note in plan.notes)
    yield "\nEvery row is valid. Nothing was written."


def _beside_lines(plan: Plan, job: Job) -> Iterator[str]:
    """What is done beside making the pictures."""
    if share := job.audited_share:
        again = f"{share:.2%} of the pictures, about {share * plan.pictures:,.0f}"
        yield f"audit      {again}, are made once more without the cache, and compared"
    if held_out := [f"{share:.2%} {name}" for name, share in job.splits if share]:
        yield f"splits     of the prompts, by a hash of their texts: {', '.join(held_out)}"
    if job.score.model and job.engine.kind != "pattern":
        yield f"score      every picture, by {job.score.model}, in fp32"


def _outlook_lines(outlook: Outlook) -> Iterator[str]:
    yield f"time       {duration(outlook.device_s)} on one device, assuming {outlook.basis}"
    if outlook.devices > 1:
        yield f"           {duration(outlook.wall_s)} on {outlook.devices:,}, once they have begun"
    if outlook.cost is not None:
        yield f"cost       {money(outlook.cost)}, at {outlook.price:g} a GPU-hour"


def plan_to_json(plan: Plan, job: Job, outlook: Outlook, memory: str = "", layout: str = "") -> str:
    """The same for programs: one JSON object of one line. Times, bytes and cost are estimates."""
    shown = (
        "rows pictures manifest read_as columns travelling json_types groups bytes over_long "
        "fingerprint"
    )
    values = plan.model_dump(mode="json", include=set(shown.split()))
    return json.dumps(
        {
            **{name: values[name] for name in shown.split()},
            "shards": len(plan.shards),
            "pictures_per_shard": plan.shards[0].pictures,
            "pictures_per_group": job.engine.batch_size,
            "max_tokens": job.model.max_sequence_length,
            "shapes": [shape._asdict() for shape in plan.shapes],
            "model": _model(job),
            "license": job.output.license,
            "format": job.output.format,
            "audited_share": job.audited_share,
            "splits": dict(job.splits),
            "score_model": job.score.model,
            **_outlook_values(outlook),
            "memory": memory,
            "layout": layout,
            "notes": plan.notes,
            "made_with": [one.model_dump() for one in plan.made_with],
        }
    )


def _outlook_values(outlook: Outlook) -> dict[str, object]:
    return {
        "device_s": outlook.device_s,
        "basis": outlook.basis,
        "pace": asdict(outlook.pace) if outlook.pace else None,
        "devices": outlook.devices,
        "wall_s": outlook.wall_s,
        "price_per_gpu_hour": outlook.price,
        "cost": outlook.cost,
    }


def _model(job: Job) -> str:
    return "test cards" if job.engine.kind == "pattern" else job.model.path


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
    print_lines(console, [f"{where} The batch script:\n\n{text}\n"])
    try:
        answer = f"SLURM would take it: {test_only(text)}"
    except SchedulerSilent as silent:
        answer = f"SLURM did not check it: {silent}"
    print_lines(console, [answer])
