"""A run: store, plan and job together. Planned from a manifest, created once, opened by everyone after.

What a run directory says is never believed without a check: opening compares manifest, weights and settings with the
plan and refuses any difference (P6); the first worker pins the engine's identity, and a GPU of another kind is refused.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from batchgen import durable
from batchgen.errors import DamagedRun, OutputError, PlanChanged
from batchgen.manifest import check_unchanged
from batchgen.model import Checkpoint
from batchgen.planning import (
    PLAN_VERSION,
    Plan,
    identify_run,
    locate_model,
    make_plan,
    refuse_change,
)
from batchgen.run.directory import RunDirectory
from batchgen.run.stop import clear_stop
from batchgen.settings import Job, load_job, to_toml

Check = Callable[[Job, Checkpoint | None, Plan], None]
"""Judges a plan before anything is written, and raises what it has against it."""

OPERATIONS = ("run", "pattern")  # sections of the job that may change at a resume


@dataclass(frozen=True, slots=True)
class Run:
    """An existing run."""

    directory: RunDirectory
    plan: Plan
    job: Job
    checkpoint: Checkpoint | None  # None for the pattern engine


def dry_run(manifest: Sequence[str | Path], job: Job, check: Check = lambda *_: None) -> Plan:
    """The plan `create` would make; writes nothing that stays."""
    job, checkpoint = locate_model(job)
    with tempfile.TemporaryDirectory(prefix="batchgen-") as folder:
        plan = make_plan(manifest, job, checkpoint, Path(folder) / "manifest.parquet")
    check(job, checkpoint, plan)
    return plan


def create(
    root: Path, manifest: Sequence[str | Path], job: Job, check: Check = lambda *_: None
) -> tuple[Run, bool]:
    """Plan into a run directory; the run, and whether it is new. One that was planned from the same inputs is opened.

    :param check: may refuse the plan.
    :raises OutputError: the folder cannot be used.
    :raises PlanChanged: the folder holds a run of other inputs.
    """
    directory = RunDirectory(root)
    if directory.plan.exists():
        job, checkpoint = locate_model(job)
        with tempfile.TemporaryDirectory(prefix="batchgen-") as folder:
            wanted = make_plan(manifest, job, checkpoint, Path(folder) / "manifest.parquet")
        refuse_change(load_plan(directory), wanted.identity, str(root))
        run = open_run(root)
        if not directory.complete():
            check(run.job, run.checkpoint, run.plan)
        return run, False
    made = [folder for folder in (directory.inner, directory.root) if not folder.exists()]
    try:
        prepare_folder(directory)
        job, checkpoint = locate_model(job)
        plan = make_plan(manifest, job, checkpoint, directory.manifest)
        check(job, checkpoint, plan)
    except BaseException:
        for folder_made in made:  # bad input leaves nothing behind
            with contextlib.suppress(OSError):
                folder_made.rmdir()
        raise
    directory.make_folders(len(plan.shards))
    clear_stop(directory)
    if not durable.create(directory.job, to_toml(job).encode()) and load_job(directory.job) != job:
        raise OutputError(
            f"{root}: another submit is making a run of another job here, or was killed while it did. "
            f"Name another folder with --out, or remove {directory.job} and type the command again."
        )
    if not durable.create(directory.plan, plan.model_dump_json().encode()):
        raise OutputError(
            f"{root}: another submit has just made this run. Continue it with: batchgen resume {root}"
        )
    return Run(directory, plan, job, checkpoint), True


def open_run(root: Path, overrides: Sequence[str] = ()) -> Run:
    """An existing run, checked against its plan.

    :param overrides: `section.key=value` for `[run]` and `[pattern]`; kept for later resumes.
    :raises OutputError: no run there.
    :raises PlanChanged: manifest, weights or settings are not what was planned.
    """
    directory = RunDirectory.open(root)
    plan = load_plan(directory)
    job, checkpoint = locate_model(load_job(directory.job, list(overrides)))
    identity = identify_run(
        job, plan.identity["manifest"], checkpoint.identity if checkpoint else {}
    )
    refuse_change(plan, identity, str(root))
    check_unchanged(plan.sources)
    if overrides:
        durable.replace(directory.job, to_toml(job).encode())
    return Run(directory, plan, job, checkpoint)


def load_plan(directory: RunDirectory) -> Plan:
    """A run's plan.

    :raises DamagedRun: it is none, or another version of batchgen wrote it.
    """
    text = directory.plan.read_bytes()
    try:
        version = json.loads(text)["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedRun(
            f"{directory.plan}: not a plan: {error}; put it back from a copy, or start another run with --out"
        ) from None
    if version != PLAN_VERSION:
        raise DamagedRun(
            f"{directory.plan}: written by another version of batchgen; resume with the one that planned it"
        )
    return Plan.model_validate_json(text)


def pin_identity(directory: RunDirectory, identity: str) -> None:
    """Make the first worker's engine identity the run's; another is refused.

    :raises PlanChanged: the run's pictures were computed on another kind of device or at another precision.
    """
    if durable.create(directory.identity, identity.encode()):
        return
    pinned = directory.identity.read_text()
    if pinned != identity:
        raise PlanChanged(
            f"this run's pictures are computed on {pinned!r}, and this worker has {identity!r}: they would differ. "
            f"Resume on the same kind of device, or start another run."
        )


def prepare_folder(directory: RunDirectory) -> None:
    """Make the run's folder and try what the protocol needs of its file system.

    :raises OutputError: not a folder, not writable, not empty, or no hard links.
    """
    try:
        directory.inner.mkdir(parents=True, exist_ok=True)
        strangers = [entry.name for entry in directory.root.iterdir() if entry != directory.inner]
        if strangers and not (directory.root / "data").is_dir():
            raise OutputError(
                f"{directory.root}: not empty ({strangers[0]}, …) and not a run of batchgen. Name another folder with --out."
            )
        probe = directory.inner / "probe"
        durable.write(probe, b"")
        durable.remove(probe.with_suffix(".link"))
        durable.link(probe, probe.with_suffix(".link"))
        durable.remove(probe)
        durable.remove(probe.with_suffix(".link"))
    except OSError as error:
        raise OutputError(
            f"{directory.root}: cannot hold a run: {error.strerror or error}. It must be a writable folder on a file system with hard links "
            f"(local disk, NFS, Lustre); name another with --out."
        ) from None
