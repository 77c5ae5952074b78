"""A run: store, plan and job together. Planned from a manifest, created once, opened by everyone after.

What a run directory says is never believed without a check: opening compares manifest, weights and settings with the
plan and refuses any difference (P6); the first worker pins the engine's identity, and a GPU of another kind is refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from batchgen import durable
from batchgen.checkpoint import Checkpoint, resolve
from batchgen.errors import DamagedRun, JobError, OutputError, PlanChanged
from batchgen.job import Job, load_job, to_toml
from batchgen.manifest import Limits, check_unchanged, find_files, image_shapes, kind_of, survey, to_parquet
from batchgen.plan import PLAN_VERSION, Cutter, Plan, Shape, estimate, fingerprint, identify, now, refuse_change, shard_size, software
from batchgen.store import Store
from batchgen.weights import digest

Check = Callable[[Job, Checkpoint | None, Plan], None]
"""Judges a plan before anything is written, and raises what it has against it."""

OPERATIONS = ("run", "pattern")  # sections of the job that may change at a resume


@dataclass(frozen=True, slots=True)
class Run:
    """An existing run."""

    store: Store
    plan: Plan
    job: Job
    checkpoint: Checkpoint | None  # None for the pattern engine


def locate_model(job: Job) -> tuple[Job, Checkpoint | None]:
    """The model's files, checked, and the job with absolute paths in the place of hub ids and relative ones."""
    if job.engine.kind == "pattern":
        return job, None
    checkpoint = resolve(job.model)
    path = job.model.path if job.model.path == "tiny" else str(checkpoint.folder)
    loras = tuple(lora.model_copy(update={"path": str(Path(lora.path).expanduser().absolute())}) for lora in job.model.lora)
    model = job.model.model_copy(update={"path": path, "revision": "", "lora": loras})
    job = job.model_copy(update={"model": model})
    return (job, checkpoint) if not job.cache.trace else _locate_trace(job, checkpoint)


def _locate_trace(job: Job, checkpoint: Checkpoint) -> tuple[Job, Checkpoint]:
    """A replayed trace decides pictures as weights do: its content is what identifies it."""
    path = Path(job.cache.trace).expanduser().absolute()
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise JobError(f'cache.trace = "{job.cache.trace}": no such file; give a metadata folder of another run, or one file of it')
    identity = checkpoint.identity | {f"trace/{file.name}": digest(file) for file in files}
    cache = job.cache.model_copy(update={"trace": str(path)})
    return job.model_copy(update={"cache": cache}), dataclasses.replace(checkpoint, identity=identity)


def make_plan(manifest: Sequence[str | Path], job: Job, checkpoint: Checkpoint | None, parquet: Path) -> Plan:
    """Validate the manifest and cut it.

    :param parquet: where a CSV or JSONL manifest is converted to; not touched for Parquet.
    :raises ManifestError: with the first ten problems.
    """
    found = find_files(manifest)
    originals = None if kind_of(found[0]) == "parquet" else to_parquet(found, parquet)
    files = found if originals is None else [parquet]
    seen = survey(
        files,
        job.sampling,
        max_tokens=job.model.max_sequence_length,
        long_prompts=job.model.long_prompts if checkpoint else "truncate",
        count_tokens=checkpoint.token_counter() if checkpoint else len,
        limits=Limits(checkpoint.pixel_multiple, checkpoint.most_px, not checkpoint.contrasts) if checkpoint else Limits(),
    )
    shapes = tuple(Shape(*shape, pictures) for shape, pictures in seen.shapes.items())
    cost = estimate(shapes, job, checkpoint)
    size = job.shards.pictures or shard_size(seen.pictures, job.engine.batch_size, cost)
    cutter = Cutter.of(size, job.engine.batch_size)
    for rows in image_shapes(files, job.sampling):
        cutter.feed(rows)
    shards, groups = cutter.finish()
    content = [source.sha256 for source in originals or seen.sources]
    identity = identify(job, content, checkpoint.identity if checkpoint else {})
    return Plan(
        run=uuid.uuid4().hex,
        created=now(),
        fingerprint=fingerprint(identity),
        identity=identity,
        manifest=tuple(str(file) for file in found),
        sources=seen.sources,
        rows=seen.rows,
        pictures=seen.pictures,
        over_long=seen.over_long,
        shapes=shapes,
        has_ids=seen.has_ids,
        groups=groups,
        shards=shards,
        seconds=cost.seconds * seen.pictures,
        bytes=round(cost.bytes * seen.pictures),
        speed=cost.speed,
        software=software(),
    )


def dry_run(manifest: Sequence[str | Path], job: Job, check: Check = lambda *_: None) -> Plan:
    """The plan `create` would make; writes nothing that stays."""
    job, checkpoint = locate_model(job)
    with tempfile.TemporaryDirectory(prefix="batchgen-") as folder:
        plan = make_plan(manifest, job, checkpoint, Path(folder) / "manifest.parquet")
    check(job, checkpoint, plan)
    return plan


def create(root: Path, manifest: Sequence[str | Path], job: Job, check: Check = lambda *_: None) -> tuple[Run, bool]:
    """Plan into a run directory; the run, and whether it is new. One that was planned from the same inputs is opened.

    :param check: may refuse the plan.
    :raises OutputError: the folder cannot be used.
    :raises PlanChanged: the folder holds a run of other inputs.
    """
    store = Store(root)
    if store.plan.exists():
        job, checkpoint = locate_model(job)
        with tempfile.TemporaryDirectory(prefix="batchgen-") as folder:
            wanted = make_plan(manifest, job, checkpoint, Path(folder) / "manifest.parquet")
        refuse_change(load_plan(store), wanted.identity, str(root))
        run = open_run(root)
        if not store.complete():
            check(run.job, run.checkpoint, run.plan)
        return run, False
    made = [folder for folder in (store.inner, store.root) if not folder.exists()]
    try:
        prepare_folder(store)
        job, checkpoint = locate_model(job)
        plan = make_plan(manifest, job, checkpoint, store.manifest)
        check(job, checkpoint, plan)
    except BaseException:
        for folder_made in made:  # bad input leaves nothing behind
            with contextlib.suppress(OSError):
                folder_made.rmdir()
        raise
    store.make_folders(len(plan.shards))
    store.clear_stop()
    if not durable.create(store.job, to_toml(job).encode()) and load_job(store.job) != job:
        raise OutputError(
            f"{root}: another submit is making a run of another job here, or was killed while it did. "
            f"Name another folder with --out, or remove {store.job} and type the command again."
        )
    if not durable.create(store.plan, plan.model_dump_json().encode()):
        raise OutputError(f"{root}: another submit has just made this run. Continue it with: batchgen resume {root}")
    return Run(store, plan, job, checkpoint), True


def open_run(root: Path, overrides: Sequence[str] = ()) -> Run:
    """An existing run, checked against its plan.

    :param overrides: `section.key=value` for `[run]` and `[pattern]`; kept for later resumes.
    :raises OutputError: no run there.
    :raises PlanChanged: manifest, weights or settings are not what was planned.
    """
    store = Store.open(root)
    plan = load_plan(store)
    job, checkpoint = locate_model(load_job(store.job, list(overrides)))
    identity = identify(job, plan.identity["manifest"], checkpoint.identity if checkpoint else {})
    refuse_change(plan, identity, str(root))
    check_unchanged(plan.sources)
    if overrides:
        durable.replace(store.job, to_toml(job).encode())
    return Run(store, plan, job, checkpoint)


def load_plan(store: Store) -> Plan:
    """A run's plan.

    :raises DamagedRun: it is none, or another version of batchgen wrote it.
    """
    text = store.plan.read_bytes()
    try:
        version = json.loads(text)["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedRun(f"{store.plan}: not a plan: {error}; put it back from a copy, or start another run with --out") from None
    if version != PLAN_VERSION:
        raise DamagedRun(f"{store.plan}: written by another version of batchgen; resume with the one that planned it")
    return Plan.model_validate_json(text)


def pin_identity(store: Store, identity: str) -> None:
    """Make the first worker's engine identity the run's; another is refused.

    :raises PlanChanged: the run's pictures were computed on another kind of device or at another precision.
    """
    if durable.create(store.identity, identity.encode()):
        return
    pinned = store.identity.read_text()
    if pinned != identity:
        raise PlanChanged(
            f"this run's pictures are computed on {pinned!r}, and this worker has {identity!r}: they would differ. "
            f"Resume on the same kind of device, or start another run."
        )


def prepare_folder(store: Store) -> None:
    """Make the run's folder and try what the protocol needs of its file system.

    :raises OutputError: not a folder, not writable, not empty, or no hard links.
    """
    try:
        store.inner.mkdir(parents=True, exist_ok=True)
        strangers = [entry.name for entry in store.root.iterdir() if entry != store.inner]
        if strangers and not (store.root / "data").is_dir():
            raise OutputError(f"{store.root}: not empty ({strangers[0]}, …) and not a run of batchgen. Name another folder with --out.")
        probe = store.inner / "probe"
        durable.write(probe, b"")
        durable.remove(probe.with_suffix(".link"))
        durable.link(probe, probe.with_suffix(".link"))
        durable.remove(probe)
        durable.remove(probe.with_suffix(".link"))
    except OSError as error:
        raise OutputError(
            f"{store.root}: cannot hold a run: {error.strerror or error}. It must be a writable folder on a file system with hard links "
            f"(local disk, NFS, Lustre); name another with --out."
        ) from None
