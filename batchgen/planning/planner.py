"""Manifest and job → plan: locate the model, check every row, estimate the cost, cut the shards.

Each command locates the model once, because that reads from every weight file, and hands the job
and the checkpoint on to everything that needs them.
"""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path

import numpy as np

from batchgen.errors import JobError, counted
from batchgen.manifest import (
    Limits,
    ShapeColumns,
    ValidManifest,
    gather_files,
    image_shapes,
    validate_manifest,
)
from batchgen.model import (
    Checkpoint,
    Ingredient,
    digest,
    list_ingredients,
    resolve,
    resolve_score_model,
)
from batchgen.planning.cut import shard_size
from batchgen.planning.cut_list import locate_keys
from batchgen.planning.effects import (
    idle_columns,
    notes_on_cache,
    refuse_without_effect,
    unused_keys,
)
from batchgen.planning.estimate import estimate_cost
from batchgen.planning.identity import fingerprint, identify_run, software
from batchgen.planning.licence_check import note_on_licences
from batchgen.planning.noise_levels import notes_on_levels
from batchgen.planning.plan import Plan, Shape, Shard
from batchgen.planning.schedule_file import refuse_missing_classes, with_classes
from batchgen.planning.stretch import START, count_shapes, cut_stretch, stretch
from batchgen.settings import Job


def locate_model(job: Job) -> tuple[Job, Checkpoint | None]:
    """Find, check and digest the files that a job names.

    :returns: the job with absolute paths in place of hub ids and relative paths, and with the
        classes of its schedule file; its model, None for test cards.
    :raises ModelError: the model, a LoRA or the scorer cannot be used.
    :raises JobError: `cache.trace` names no file, or `cache.schedule` no schedule of this model.
    """
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
    if job.cache.schedule:
        job = with_classes(job, checkpoint)
    if job.score.model:
        job, checkpoint = _with_scorer(job, checkpoint)
    return locate_trace(job, checkpoint) if job.cache.trace else (job, checkpoint)


def _with_scorer(job: Job, checkpoint: Checkpoint) -> tuple[Job, Checkpoint]:
    """Find, check and digest the model that scores the pictures.

    :raises ModelError: it cannot be used.
    """
    scorer = resolve_score_model(job.score.model)
    score = job.score.model_copy(update={"model": str(scorer.folder)})
    return job.model_copy(update={"score": score}), replace(checkpoint, scorer=scorer)


def locate_trace(job: Job, checkpoint: Checkpoint) -> tuple[Job, Checkpoint]:
    """Add a replayed trace to what identifies the model: it decides pictures as weights do.

    :raises JobError: `cache.trace` names no file.
    """
    path = Path(job.cache.trace).expanduser().absolute()
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not files[0].is_file():
        raise JobError(
            f'cache.trace = "{job.cache.trace}": no such file; give a metadata folder of another '
            "run, or one file of it"
        )
    digests = {f"trace/{file.name}": digest(file) for file in files}
    cache = job.cache.model_copy(update={"trace": str(path)})
    job = job.model_copy(update={"cache": cache})
    return job, replace(checkpoint, identity=checkpoint.identity | digests)


def dry_run(manifest: Sequence[str | Path], job: Job, checkpoint: Checkpoint | None) -> Plan:
    """The plan that `make_plan` makes, without writing anything that stays."""
    with tempfile.TemporaryDirectory(prefix="batchgen-") as folder:
        return make_plan(manifest, job, checkpoint, Path(folder) / "manifest.parquet")


def make_plan(
    manifest: Sequence[str | Path],
    job: Job,
    checkpoint: Checkpoint | None,
    parquet: Path,
    limit: int | None = None,
) -> Plan:
    """Check every row of a manifest and cut it into shards.

    :param manifest: files, globs or folders; or URLs of such.
    :param job: located, as `locate_model` returns it with its `checkpoint`.
    :param parquet: where a manifest that is not Parquet is converted to; not touched for Parquet.
        Parquet behind URLs is kept in the folder of this name without its extension.
    :param limit: plan only so many pictures, the first ones: a trial.
    :raises ManifestError: rows break the contract; with the first ten problems.
    :raises JobError: the model cannot paint what `[sampling]` asks for, a value of it changes
        nothing, the schedule lacks a class of pictures, or `[manifest] columns` names columns that
        are not there.
    """
    made_with = list_ingredients(job.model, checkpoint) if checkpoint else ()
    found = gather_files(manifest, parquet.with_suffix(""))
    with found.by_name():
        valid = check_rows(found.files, job, checkpoint, parquet)
    if valid.described:  # its rows are in `parquet` now
        found.drop()
    refuse_without_effect(job, valid.effects)
    shapes = tuple(Shape(*shape, pictures) for shape, pictures in valid.shapes.items())
    files = [source.path for source in valid.sources]
    pictures, end = valid.pictures, None
    if limit is not None and limit < pictures:
        pictures = limit
        shapes, end = _first_pictures(files, job, limit)
    if checkpoint:
        refuse_missing_classes(job, shapes, files)
    contrasted = valid.effects.contrasted / valid.rows
    cost = estimate_cost(shapes, job, checkpoint, contrasted)
    batch_size = job.engine.batch_size
    size = job.shards.pictures or shard_size(pictures, batch_size, cost)
    size = min(size, pictures)  # a larger number, of any length, means one shard too
    blocks = stretch(_rows(files, job), START, pictures)
    shards, groups = cut_stretch(blocks, START, size, batch_size)
    identity = identify_run(job, valid.content, checkpoint.inputs if checkpoint else {})
    return Plan(
        run=uuid.uuid4().hex,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        fingerprint=fingerprint(identity),
        identity=identity,
        manifest=tuple(found.names),
        sources=valid.sources,
        read_as=valid.described,
        columns=valid.columns.used,
        travelling=tuple(valid.columns.travelling),
        json_types=dict(valid.json_types),
        rows=valid.rows,
        pictures=pictures,
        end=end,
        whole=valid.pictures if end else 0,
        over_long=valid.over_long,
        shapes=shapes,
        contrasted=contrasted,
        has_ids=valid.has_ids,
        idle_columns=tuple(idle_columns(valid.effects)),
        unused_keys=tuple(unused_keys(job, valid.effects)),
        remarks=tuple(_remarks(job, checkpoint, shapes, made_with)),
        groups=groups,
        shards=shards,
        # Audited pictures are made twice. The shards are cut as if there were no audit.
        seconds=cost.seconds * pictures * (1 + job.audited_share),
        bytes=round(cost.bytes * pictures),
        speed=cost.speed,
        software=software(),
        made_with=made_with,
    )


def _first_pictures(files: Sequence[str], job: Job, count: int) -> tuple[tuple[Shape, ...], Shard]:
    """The shapes of a trial's pictures, and what a shard after them would begin with."""
    shapes = count_shapes(stretch(_rows(files, job), START, count))
    following = locate_keys(_rows(files, job), np.array([count]))
    return shapes, Shard(count, 0, int(following.rows[0]), int(following.images[0]))


def _rows(files: Sequence[str], job: Job) -> Iterator[ShapeColumns]:
    """All rows of a manifest, as a job reads them."""
    return image_shapes(files, job.sampling, job.manifest.columns)


def _remarks(
    job: Job,
    checkpoint: Checkpoint | None,
    shapes: Sequence[Shape],
    made_with: Sequence[Ingredient],
) -> Iterator[str]:
    """What whoever plans the run is to be told beside what nothing reads: a sentence each."""
    if checkpoint:
        yield from checkpoint.left_out()
    yield from notes_on_levels(job.sampling, checkpoint)
    yield from notes_on_cache(job, shapes)
    yield from note_on_licences(job.output, made_with)


def check_rows(
    files: Sequence[Path], job: Job, checkpoint: Checkpoint | None, parquet: Path | None
) -> ValidManifest:
    """Check every row of a manifest as a job reads it.

    :param parquet: as of `make_plan`.
    :raises ManifestError: rows break the contract; with the first ten problems.
    """
    count_tokens, limits = _limits(checkpoint)
    return validate_manifest(
        files,
        job.sampling,
        parquet=parquet,
        mapping=job.manifest.columns,
        max_tokens=job.model.max_sequence_length,
        long_prompts=job.model.long_prompts if checkpoint else "truncate",
        count_tokens=count_tokens,
        limits=limits,
    )


def recount(plan: Plan, job: Job) -> str:
    """Cut the manifest again; where the plan differs from it, "" if it does not.

    Generations with a list are not looked at.

    :raises ManifestError: a file cannot be read.
    """
    own = plan.groups - sum(one.groups for one in plan.later)
    groups_of = [own, *(one.groups for one in plan.later)]
    files = [source.path for source in plan.sources]
    for part, planned_groups in zip(plan.parts(), groups_of, strict=True):
        if part.listed:
            continue
        ours = plan.shards[part.first_shard : part.end_shard]
        to_the_end = part.end == plan.following and not plan.left
        count = None if to_the_end else part.end.first_key - ours[0].first_key
        pieces = stretch(_rows(files, job), ours[0], count)
        shards, groups = cut_stretch(pieces, ours[0], ours[0].pictures, job.engine.batch_size)
        for number, (planned, found) in enumerate(zip_longest(ours, shards), part.first_shard):
            if planned != found:
                there = f"the manifest has {_told(found)}"
                return f"shard {number} is planned as {_told(planned)}; {there}"
        if planned_groups != groups:
            told = counted(planned_groups, "group is", "groups are")
            return f"{told} planned; the manifest has {groups}"
    return ""


def _told(shard: Shard | None) -> str:
    if shard is None:
        return "nothing"
    place = f"row {shard.row}, picture {shard.skip} of it"
    return f"{counted(shard.pictures, 'picture')} from picture {shard.first_key} on ({place})"


def _limits(checkpoint: Checkpoint | None) -> tuple[Callable[[str], int], Limits]:
    """How tokens are counted, and what the model takes of a row; test cards take everything."""
    if checkpoint is None:
        return len, Limits()
    counter = checkpoint.token_counter()
    limits = Limits(
        checkpoint.pixel_multiple,
        checkpoint.most_px,
        checkpoint.guidance,
        checkpoint.template_bytes,
        counter.words,
    )
    return counter, limits
