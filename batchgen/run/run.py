"""A run: its directory, its plan and its job. Created once, opened by everyone after.

A run directory is never believed without a check. Opening a run compares manifest, weights and
settings with the plan and refuses every difference (P6). The first worker pins the engine's
identity, and a GPU of another kind is refused.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from batchgen import durable
from batchgen.errors import DamagedRun, OutputError, PlanChanged, shell_command
from batchgen.manifest import check_unchanged
from batchgen.model import Checkpoint
from batchgen.planning import (
    PLAN_VERSION,
    UNKNOWN,
    Hardware,
    Plan,
    dry_run,
    identify_run,
    locate_model,
    make_plan,
    refuse_change,
    refuse_unfit,
)
from batchgen.run.directory import RunDirectory
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
) -> tuple[Run, bool]:
    """Plan a manifest into a run directory, or open the run that was planned there from the same.

    :param job: located, as `locate_model` returns it with its `checkpoint`.
    :param hardware: the devices that are to make the pictures.
    :returns: the run, and whether it is new.
    :raises OutputError: the folder cannot hold a run.
    :raises ManifestError: the manifest breaks its contract.
    :raises JobError: the devices cannot make the planned pictures.
    :raises PlanChanged: the folder holds a run of other inputs.
    """
    directory = RunDirectory(root)
    if directory.plan.exists():
        wanted = dry_run(manifest, job, checkpoint)
        refuse_change(load_plan(directory), wanted.identity, str(root))
        run = _open(root, load_job(directory.job), known=(job, checkpoint))
        if not directory.complete():
            refuse_unfit(run.job, run.checkpoint, run.plan, hardware)
        return run, False
    with _prepared_folder(directory):
        plan = make_plan(manifest, job, checkpoint, directory.manifest)
        refuse_unfit(job, checkpoint, plan, hardware)
    directory.make_folders(len(plan.shards))
    clear_stop(directory)
    if not durable.create(directory.job, to_toml(job).encode()) and load_job(directory.job) != job:
        raise OutputError(
            f"{root}: another submit is making a run of another job here, or was killed while it "
            "did. Name another folder with --out, or type the command again after: "
            + shell_command("rm", directory.job)
        )
    if not durable.create(directory.plan, plan.model_dump_json().encode()):
        told = f"{root}: another submit has just made this run. Continue it with: "
        raise OutputError(told + shell_command("batchgen", "resume", root))
    return Run(directory, plan, job, checkpoint), True


def open_run(root: Path, overrides: Sequence[str] = ()) -> Run:
    """Open an existing run, checked against its plan.

    :param overrides: `section.key=value` for `[run]` and `[pattern]`; kept for later resumes.
    :raises OutputError: no run there.
    :raises PlanChanged: manifest, weights or settings are not what was planned.
    """
    directory = RunDirectory.open(root)
    run = _open(root, load_job(directory.job, list(overrides)))
    if overrides:
        durable.replace(directory.job, to_toml(run.job).encode())
    return run


def _open(root: Path, job: Job, known: tuple[Job, Checkpoint | None] | None = None) -> Run:
    """Check a run against its plan.

    :param job: of the run directory.
    :param known: a located job and its checkpoint. They save locating the same files again.
    """
    directory = RunDirectory(root)
    plan = load_plan(directory)
    if known and (known[0].model, known[0].cache.trace) == (job.model, job.cache.trace):
        checkpoint = known[1]
    else:
        job, checkpoint = locate_model(job)
    weights = checkpoint.identity if checkpoint else {}
    refuse_change(plan, identify_run(job, plan.identity["manifest"], weights), str(root))
    check_unchanged(plan.sources)
    return Run(directory, plan, job, checkpoint)


def load_plan(directory: RunDirectory) -> Plan:
    """A run's plan.

    :raises DamagedRun: the file is no plan, or another version of batchgen wrote it.
    """
    text = directory.plan.read_bytes()
    try:
        version = json.loads(text)["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedRun(
            f"{directory.plan}: not a plan: {error}; put it back from a copy, or start another run "
            "with --out"
        ) from None
    if version != PLAN_VERSION:
        raise DamagedRun(
            f"{directory.plan}: written by another version of batchgen; resume with the one that "
            "planned it"
        )
    return Plan.model_validate_json(text)


def pin_identity(directory: RunDirectory, identity: str) -> None:
    """Make the first worker's engine identity the run's, and refuse every other.

    :raises PlanChanged: the run's pictures were computed on another kind of device or at another
        precision.
    """
    if durable.create(directory.identity, identity.encode()):
        return
    pinned = directory.identity.read_text()
    if pinned != identity:
        raise PlanChanged(
            f"this run's pictures are computed on {pinned!r}, and this worker has {identity!r}: "
            "they would differ. Resume on the same kind of device, or start another run."
        )


@contextlib.contextmanager
def _prepared_folder(directory: RunDirectory) -> Iterator[None]:
    """Make the run's folder. An error inside removes what was made: bad input leaves nothing."""
    made = [folder for folder in (directory.inner, directory.root) if not folder.exists()]
    try:
        _prepare_folder(directory)
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            # Another submit may have made its run here meanwhile.
            if directory.inner in made and not directory.plan.exists():
                directory.manifest.unlink(missing_ok=True)
            for folder in made:
                folder.rmdir()
        raise


def _prepare_folder(directory: RunDirectory) -> None:
    """Make the run's folder and try what the protocol needs of its file system.

    :raises OutputError: not a folder, not writable, not empty, or no hard links.
    """
    try:
        directory.inner.mkdir(parents=True, exist_ok=True)
        strangers = [entry.name for entry in directory.root.iterdir() if entry != directory.inner]
        if strangers and not (directory.root / "data").is_dir():
            raise OutputError(
                f"{directory.root}: not empty ({strangers[0]}, …) and not a run of batchgen. Name "
                "another folder with --out."
            )
        probe = directory.inner / "probe"
        durable.write(probe, b"")
        durable.remove(probe.with_suffix(".link"))
        durable.link(probe, probe.with_suffix(".link"))
        durable.remove(probe)
        durable.remove(probe.with_suffix(".link"))
    except OSError as error:
        raise OutputError(
            f"{directory.root}: cannot hold a run: {error.strerror or error}. It must be a "
            "writable folder on a file system with hard links (local disk, NFS, Lustre); name "
            "another with --out."
        ) from None
