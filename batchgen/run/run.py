"""A run: its directory, its plan and its job. Created once, opened by everyone after.

A run directory is never believed without a check. Opening a run compares manifest, weights and
settings with the plan and refuses every difference (P6). The first worker pins the engine's
identity, and a GPU of another kind is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from batchgen import durable
from batchgen.errors import OutputError, PlanChanged, counted, shell_command
from batchgen.manifest import check_unchanged
from batchgen.model import Checkpoint
from batchgen.planning import (
    UNKNOWN,
    Hardware,
    Plan,
    as_before,
    dry_run,
    encode_plan,
    identify_run,
    locate_model,
    make_plan,
    refuse_change,
    refuse_open_licence,
    refuse_unfit,
    sample_plan,
)
from batchgen.regular_file import read_regular
from batchgen.run.directory import RunDirectory
from batchgen.run.key_lists import write_list
from batchgen.run.moved import note_moved, refuse_missing
from batchgen.run.ownership import refuse_others
from batchgen.run.place import prepared_folder
from batchgen.run.plan_files import load_plan
from batchgen.run.stop import clear_stop
from batchgen.settings import Job, load_job, to_toml


@dataclass(frozen=True, slots=True)
class Run:
    """An existing run."""

    directory: RunDirectory
    plan: Plan
    job: Job
    # None for test cards.
    checkpoint: Checkpoint | None


def create(
    root: Path,
    manifest: Sequence[str | Path],
    job: Job,
    checkpoint: Checkpoint | None,
    *,
    hardware: Hardware = UNKNOWN,
    limit: int | None = None,
    sample: int | None = None,
) -> tuple[Run, bool]:
    """Plan a manifest into a run directory, or open the run that was planned there from the same.

    :param job: located, as `locate_model` returns it with its `checkpoint`.
    :param hardware: the devices that are to make the pictures.
    :param limit: a trial of so many pictures, the first ones. A run that is there must have been
        planned so.
    :param sample: a trial of so many from all over the manifest, likewise.
    :returns: the run, and whether it is new.
    :raises OutputError: the folder cannot hold a run.
    :raises ManifestError: the manifest breaks its contract.
    :raises JobError: the devices cannot make the planned pictures, or these are to have a licence
        that the model's does not bear.
    :raises PlanChanged: the folder holds a run of other inputs, or a trial of another size.
    """
    directory = RunDirectory(root)
    if directory.plan.exists():
        refuse_others(directory)
        plan = load_plan(directory)
        wanted = dry_run(manifest, as_before(job, plan), checkpoint)
        refuse_change(plan, wanted.identity, str(root), finished=directory.complete())
        _refuse_other_trial(plan, wanted.pictures, limit, sample, root)
        if not all(Path(source.path).exists() for source in plan.sources):
            note_moved(directory, plan, manifest)
        run = _open(root, load_job(directory.job), known=(job, checkpoint))
        if not directory.complete():
            refuse_unfit(run.job, run.checkpoint, run.plan, hardware)
        return run, False
    with prepared_folder(root):
        plan = make_plan(manifest, job, checkpoint, directory.manifest, limit)
        refuse_open_licence(job.output, plan.made_with)
        drawn = sample if sample is not None and sample < plan.pictures else 0
        if drawn:
            plan, places = sample_plan(plan, job, checkpoint, drawn)
        refuse_unfit(job, checkpoint, plan, hardware)
        if drawn:  # last: an error leaves nothing
            nowhere, unchanged = np.full(drawn, -1), np.zeros(drawn, np.int64)
            listed = write_list(directory, 0, places, nowhere, unchanged)
            plan = plan.model_copy(update={"listed": listed})
    directory.make_folders(len(plan.shards))
    clear_stop(directory)
    if not durable.create(directory.job, to_toml(job).encode()) and load_job(directory.job) != job:
        raise OutputError(
            f"{root}: another submit is making a run of another job here, or was killed while it "
            "did. Name another folder with --out, or type the command again after: "
            + shell_command("rm", directory.job)
        )
    if not durable.create(directory.plan, encode_plan(plan)):
        told = f"{root}: another submit has just made this run. Continue it with: "
        raise OutputError(told + shell_command("batchgen", "resume", root))
    return Run(directory, plan, job, checkpoint), True


def _refuse_other_trial(
    plan: Plan, pictures: int, limit: int | None, sample: int | None, root: Path
) -> None:
    """Check that a trial is the one that a run was planned as.

    :param pictures: of the whole manifest.
    :raises PlanChanged: it is not.
    """
    first = plan.parts()[0]
    planned = sum(one.pictures for one in plan.shards[: first.end_shard])
    for name, asked in (("--limit", limit), ("--sample", sample)):
        drawn = asked is not None and asked < pictures and name == "--sample"
        if asked is not None and (min(asked, pictures), drawn) != (planned, bool(first.listed)):
            how = ", drawn from all over the manifest," if first.listed else ""
            raise PlanChanged(
                f"{root} was begun with {counted(planned, 'picture')}{how} and {name} says "
                f"{asked:,}. Leave {name} away to go on to all {pictures:,}, or name another "
                "folder with --out."
            )


def open_run(root: Path, overrides: Sequence[str] = (), manifest: Sequence[str | Path] = ()) -> Run:
    """Open an existing run, checked against its plan.

    :param overrides: `section.key=value` for `[run]`, `[audit]`, `[splits]` and `[pattern]`; kept
        for later resumes.
    :param manifest: where the manifest is now, if it was moved; kept too.
    :raises OutputError: no run there, or others may change it.
    :raises PlanChanged: manifest, weights or settings are not what was planned.
    """
    directory = RunDirectory.open(root)
    refuse_others(directory)
    if manifest:
        note_moved(directory, load_plan(directory), manifest)
    run = _open(root, load_job(directory.job, list(overrides)))
    if overrides:
        durable.replace(directory.job, to_toml(run.job).encode(), durable.PRIVATE)
    return run


def inspect_run(root: Path) -> Run:
    """An existing run as it says itself that it is; it is not compared with its inputs.

    :raises OutputError: no run there.
    :raises DamagedRun: its plan is not the one that was made.
    :raises JobError: its job is damaged.
    """
    directory = RunDirectory.open(root)
    plan = load_plan(directory)
    return Run(directory, plan, as_before(load_job(directory.job), plan), None)


def _open(root: Path, job: Job, known: tuple[Job, Checkpoint | None] | None = None) -> Run:
    """Check a run against its plan.

    :param job: of the run directory.
    :param known: a located job and its checkpoint. They save locating the same files again.
    """
    directory = RunDirectory(root)
    plan = load_plan(directory)
    job = as_before(job, plan)
    if known and _places(known[0]) == _places(job):
        checkpoint = known[1]
    else:
        job, checkpoint = locate_model(job)
    weights = checkpoint.inputs if checkpoint else {}
    identity = identify_run(job, plan.identity["manifest"], weights)
    refuse_change(plan, identity, str(root), finished=directory.complete())
    directory.make_folders(len(plan.shards))  # one that was lost would be missed by every worker
    refuse_missing(directory, plan)
    check_unchanged(plan.sources)
    return Run(directory, plan, job, checkpoint)


def _places(job: Job) -> tuple[object, ...]:
    """What `locate_model` looks for."""
    return job.model, job.cache.trace, job.score


def pin_identity(directory: RunDirectory, identity: str) -> None:
    """Make the first worker's engine identity the run's, and refuse every other.

    :raises PlanChanged: the run's pictures were computed on another kind of device or at another
        precision.
    """
    if durable.create(directory.identity, identity.encode()):
        return
    pinned = read_regular(directory.identity).decode(errors="replace")
    if pinned != identity:
        raise PlanChanged(
            f"this run's pictures are computed on {pinned[:200]!r}, and this worker has "
            f"{identity!r}: they would differ. Resume on the same kind of device, or start another "
            f"run. (What the run was begun on stands in {directory.identity}.)"
        )
