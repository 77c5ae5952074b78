"""`plan --measure`: a few groups of the manifest are made on this machine, to know its pace.

They are made by an ordinary run in a temporary folder: as many workers as the planned run would
have, each with `GROUPS` groups of the most common shapes. The first group of a shape does not
count, because much happens then for the first time. Nothing stays but the pace, in the cache
folder, where complete runs leave theirs (`planning/pace.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from batchgen.calibration.measuring_folder import end_work, measuring_folder, run_of
from batchgen.calibration.sample import draw_sample
from batchgen.errors import BatchgenError, InputError, JobError, counted
from batchgen.launch.start import start
from batchgen.model import Checkpoint
from batchgen.planning import Hardware, Pace, Plan, make_plan, remember, worker_count
from batchgen.planning.estimate import estimate_cost
from batchgen.planning.plan import Shape
from batchgen.regular_file import read_regular
from batchgen.run import Run, create
from batchgen.settings import Audit, Job, ManifestSettings, Shards, Site
from batchgen.shard import published_shards, read_metadata
from batchgen.view.status import Status
from batchgen.view.watch import follow

# Groups of each shape that a worker makes; the first one does not count.
GROUPS = 3
# The most common shapes are made until they are half of the pictures, and at most so many.
SHAPES = 3
# Columns of the manifest that decide a picture; the others do not matter here.
_COLUMNS = (
    *("prompt", "negative_prompt", "seed", "images"),
    *("width", "height", "steps", "guidance", "true_cfg"),
)


@dataclass(frozen=True, slots=True)
class Measuring:
    """What is made to measure a pace."""

    # The planned run's, and what makes it.
    plan: Plan
    job: Job
    checkpoint: Checkpoint
    hardware: Hardware
    console: Console
    # What was typed.
    command: list[str]

    @property
    def shapes(self) -> list[Shape]:
        """The shapes that are made, the most common one first."""
        ordered = sorted(self.plan.shapes, key=lambda shape: -shape.pictures)
        chosen = ordered[:1]
        for shape in ordered[1:SHAPES]:
            if 2 * sum(one.pictures for one in chosen) < self.plan.pictures:
                chosen.append(shape)
        return chosen

    @property
    def workers(self) -> int:
        """As many as the planned run has."""
        return worker_count(self.job, self.hardware.devices or (), len(self.plan.shards))


def refuse_measuring(job: Job, site: Site | None) -> None:
    """Check that this machine can say how long the run takes.

    :raises InputError: the run is for a cluster, or draws test cards.
    :raises JobError: the job repeats the steps of other pictures.
    """
    if site:
        raise InputError(
            "--measure makes pictures on this machine, and --site plans for another. Type the "
            "command on a node of the site, without --site: the pace is kept in "
            "~/.cache/batchgen/pace, and `plan --site` uses it where that folder is shared"
        )
    if job.engine.kind == "pattern":
        raise InputError("--measure and --rehearse: test cards have no pace; leave one of them out")
    if job.cache.policy == "replay":
        raise JobError(
            'cache.policy = "replay" repeats the steps of other pictures, and no sample can be '
            "made with it; leave --measure out"
        )


def measure_pace(manifest: Sequence[str], asked: Measuring) -> Pace:
    """Make the groups and remember the pace. Ctrl-C ends it, and nothing is left behind.

    What a call that was killed has left is removed.

    :param manifest: files, globs or folders.
    :raises BatchgenError: the groups cannot be made; with the reason.
    """
    with measuring_folder() as folder:
        file = folder / "sample.parquet"
        pq.write_table(_sample(manifest, asked, folder), file)
        job = _job(asked)
        run, _ = create(run_of(folder), [file], job, asked.checkpoint, hardware=asked.hardware)
        groups = counted(run.plan.groups, "group")
        by = counted(asked.workers, "worker")
        asked.console.print(f"Making {groups} with {by}, to measure the pace.", soft_wrap=True)
        seen = _made(run, asked)
        if seen.state != "complete":
            raise BatchgenError(f"--measure made no whole sample: {seen.state}, {seen.cause}")
        pace = _pace(run, asked)
    remember(asked.plan.identity, pace)
    asked.console.print("The pace is kept for later plans of such runs.\n", soft_wrap=True)
    return pace


def _sample(manifest: Sequence[str], asked: Measuring, folder: Path) -> pa.Table:
    """The rows to make: for each worker in turn, `GROUPS` full groups of each shape.

    A shape with fewer pictures has them several times.
    """
    plan = asked.plan
    if not all(Path(source.path).exists() for source in plan.sources):  # converted, and gone since
        plan = make_plan(manifest, asked.job, asked.checkpoint, folder / "manifest.parquet")
    of_worker = GROUPS * asked.job.engine.batch_size
    wanted = of_worker * asked.workers
    drawn = [
        draw_sample(plan.model_copy(update={"shapes": (shape,)}), asked.job, wanted, 0)
        for shape in asked.shapes
    ]
    parts = []
    for worker in range(asked.workers):
        for table in drawn:
            first = worker * of_worker
            rows = [number % table.num_rows for number in range(first, first + of_worker)]
            parts.append(table.select(_COLUMNS).take(rows))
    return pa.concat_tables(parts)


def _job(asked: Measuring) -> Job:
    """The job of the sample: a shard a worker, and nothing that ends it early or costs more."""
    size = GROUPS * asked.job.engine.batch_size * len(asked.shapes)
    changes = {"workers": asked.workers, "time_limit_s": None}
    sections = {
        "manifest": ManifestSettings(),
        "shards": Shards(pictures=size),
        "audit": Audit(),
        "run": asked.job.run.model_copy(update=changes),
    }
    return asked.job.model_copy(update=sections)


def _made(run: Run, asked: Measuring) -> Status:
    """Make the sample; however that ends, nobody works on it any more."""
    try:
        start(run, None, asked.command)
        return follow(run.directory, asked.console, run.plan)
    finally:
        end_work(run.directory)


def _pace(run: Run, asked: Measuring) -> Pace:
    """The pace of the groups that count.

    :raises BatchgenError: not one picture of them is good.
    """
    taken_s = estimated_s = 0.0
    pictures, batch = 0, asked.job.engine.batch_size
    for shard in sorted(published_shards(run.directory)):
        columns = ["outcome", "device_s"]
        rows = read_metadata(run.directory.metadata(shard), columns).to_pylist()
        # A shard's pictures stand in the order of its shapes.
        for number, shape in enumerate(sorted(asked.shapes)):
            first = number * GROUPS * batch
            warm = rows[first + batch : first + GROUPS * batch]
            good = [row["device_s"] for row in warm if row["outcome"] == "ok"]
            cost = estimate_cost([shape], asked.job, asked.checkpoint, run.plan.contrasted)
            pictures, taken_s = pictures + len(good), taken_s + sum(good)
            estimated_s += len(good) * cost.seconds
    if not pictures:
        raise BatchgenError("--measure: no picture of the groups that count could be made")
    device = read_regular(run.directory.identity).decode(errors="replace")
    factor = taken_s * asked.job.parallel.degree / estimated_s
    return Pace(factor, pictures, device, f"{_told(pictures, asked)}, made by `plan --measure`,")


def _told(pictures: int, asked: Measuring) -> str:
    """The pictures that count, as the basis of a plan's time."""
    sizes = [f"{one.width}×{one.height} px in {one.steps} steps" for one in asked.shapes]
    return f"{counted(pictures, 'picture')} of {' and '.join(sizes)}"
