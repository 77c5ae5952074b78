"""batchgen.planning.planner."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence
from pathlib import Path

from batchgen.errors import JobError
from batchgen.manifest import (
    Limits,
    find_files,
    image_shapes,
    kind_of,
    to_parquet,
    validate_manifest,
)
from batchgen.model import Checkpoint, digest, resolve
from batchgen.planning.cut import Cutter, shard_size
from batchgen.planning.estimate import estimate_cost
from batchgen.planning.identity import fingerprint, identify_run, software
from batchgen.planning.plan import Plan, Shape, now
from batchgen.settings import Job


def locate_model(job: Job) -> tuple[Job, Checkpoint | None]:
    """The model's files, checked, and the job with absolute paths in the place of hub ids and relative ones."""
    if job.engine.kind == "pattern":
        return job, None
    checkpoint = resolve(job.model)
    path = job.model.path if job.model.path == "tiny" else str(checkpoint.folder)
    loras = tuple(
        lora.model_copy(update={"path": str(Path(lora.path).expanduser().absolute())})
        for lora in job.model.lora
    )
    model = job.model.model_copy(update={"path": path, "revision": "", "lora": loras})
    job = job.model_copy(update={"model": model})
    return (job, checkpoint) if not job.cache.trace else _locate_trace(job, checkpoint)


def _locate_trace(job: Job, checkpoint: Checkpoint) -> tuple[Job, Checkpoint]:
    """A replayed trace decides pictures as weights do: its content is what identifies it."""
    path = Path(job.cache.trace).expanduser().absolute()
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise JobError(
            f'cache.trace = "{job.cache.trace}": no such file; give a metadata folder of another run, or one file of it'
        )
    identity = checkpoint.identity | {f"trace/{file.name}": digest(file) for file in files}
    cache = job.cache.model_copy(update={"trace": str(path)})
    return job.model_copy(update={"cache": cache}), dataclasses.replace(
        checkpoint, identity=identity
    )


def make_plan(
    manifest: Sequence[str | Path], job: Job, checkpoint: Checkpoint | None, parquet: Path
) -> Plan:
    """Validate the manifest and cut it.

    :param parquet: where a CSV or JSONL manifest is converted to; not touched for Parquet.
    :raises ManifestError: with the first ten problems.
    """
    found = find_files(manifest)
    originals = None if kind_of(found[0]) == "parquet" else to_parquet(found, parquet)
    files = found if originals is None else [parquet]
    seen = validate_manifest(
        files,
        job.sampling,
        max_tokens=job.model.max_sequence_length,
        long_prompts=job.model.long_prompts if checkpoint else "truncate",
        count_tokens=checkpoint.token_counter() if checkpoint else len,
        limits=Limits(checkpoint.pixel_multiple, checkpoint.most_px, not checkpoint.contrasts)
        if checkpoint
        else Limits(),
    )
    shapes = tuple(Shape(*shape, pictures) for shape, pictures in seen.shapes.items())
    cost = estimate_cost(shapes, job, checkpoint)
    size = job.shards.pictures or shard_size(seen.pictures, job.engine.batch_size, cost)
    cutter = Cutter.of(size, job.engine.batch_size)
    for rows in image_shapes(files, job.sampling):
        cutter.feed(rows)
    shards, groups = cutter.finish()
    content = [source.sha256 for source in originals or seen.sources]
    identity = identify_run(job, content, checkpoint.identity if checkpoint else {})
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
