"""cache.schedule: the file in which `batchgen calibrate` says which steps each class computes.

    {
     "format": "batchgen schedule",
     "version": 1,
     "model": {"path": "tiny", "digest": "…"},
     "origin": "64 pictures of prompts.parquet, seed 0",
     "classes": [
      {"pixels": 16384, "steps": 28, "negative_prompt": false, "computed": [0, 11, …], "errors": …}
     ],
     "checksum": "…"
    }

A job that names such a file is given its classes when it is located. They stand in the run's own
job file from then on and belong to its fingerprint; the file is not needed again. What holds for
one model need not hold for another, so the file names its model and is refused with others.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from batchgen.checked_json import parse, seal, unseal
from batchgen.errors import JobError, counted, one_line, shell_command
from batchgen.manifest import decode_shape, image_shapes
from batchgen.model import Checkpoint
from batchgen.planning.noise_levels import stated_levels
from batchgen.planning.plan import Shape
from batchgen.regular_file import read_regular
from batchgen.settings import ClassSchedule, Job, PictureClass, Section

FORMAT, VERSION = "batchgen schedule", 1


class ModelDigest(NamedTuple):
    """The model whose pictures were measured."""

    # As the job names it; for people.
    path: str
    # Of weights and LoRAs, with the strengths of these, and of noise levels that the job states.
    digest: str

    @classmethod
    def of(cls, job: Job, checkpoint: Checkpoint) -> ModelDigest:
        """The model of a located job."""
        content: list[Any] = [dict(checkpoint.identity), [lora.scale for lora in job.model.lora]]
        # Velocities at other noise levels are others. The model's own levels are in its identity.
        if levels := stated_levels(job.sampling):
            content.append(levels)
        text = json.dumps(content, sort_keys=True).encode()
        return cls(job.model.path, hashlib.sha256(text).hexdigest())


class _File(Section):
    """The file's content."""

    format: str
    version: int
    model: dict[str, str]
    origin: str
    classes: tuple[ClassSchedule, ...]


def encode_schedule(model: ModelDigest, origin: str, classes: Sequence[ClassSchedule]) -> bytes:
    """The text of a schedule file, a line a class.

    :param origin: from which pictures it comes; for people.
    """
    content = {"format": FORMAT, "version": VERSION, "model": model._asdict(), "origin": origin}
    listed = [one.model_dump(mode="json") for one in classes]
    sealed = json.loads(seal({**content, "classes": listed}))
    lines = [f" {json.dumps(key)}: {json.dumps(sealed[key])}" for key in (*content, "checksum")]
    rows = ",\n".join(f"  {json.dumps(one)}" for one in listed)
    lines.insert(-1, f' "classes": [\n{rows}\n ]')
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def with_classes(job: Job, checkpoint: Checkpoint) -> Job:
    """A job whose schedule file is read: `cache.classes` are what the file says.

    :param job: one that names a file, with its model's `checkpoint`.
    :raises JobError: the file cannot be read or was changed, or is of another model.
    """
    named = f'cache.schedule = "{one_line(job.cache.schedule)}"'
    path = Path(job.cache.schedule).expanduser()
    if job.cache.skip or job.cache.classes:
        other = "skip" if job.cache.skip else "classes"
        raise JobError(f"{named} and cache.{other} each say which steps are computed: leave one")
    again = (
        f"Write it again with: {shell_command('batchgen', 'calibrate', 'MANIFEST', '--job')} JOB"
    )
    try:
        file = _read(path)
    except FileNotFoundError:
        raise JobError(f"{named}: no such file. {again}") from None
    except (OSError, ValueError) as error:
        raise JobError(f"{named}: not a schedule file of this version: {error}. {again}") from None
    model = ModelDigest.of(job, checkpoint)
    if file.model.get("digest") != model.digest:
        raise JobError(
            f"{named}: found for the model {one_line(str(file.model.get('path')))} "
            f"(digest {str(file.model.get('digest'))[:12]}), and the job's is {model.path} "
            f"(digest {model.digest[:12]}): other weights, LoRAs, "
            f"strengths or noise levels. {again}"
        )
    update = {"schedule": "", "classes": file.classes}
    return job.model_copy(update={"cache": job.cache.model_copy(update=update)})


def _read(path: Path) -> _File:
    """The content of a schedule file.

    :raises ValueError: it is none, or not the one that was written.
    :raises OSError: it cannot be read.
    """
    text = read_regular(path)
    if b'"checksum"' not in text:
        raise ValueError("it has no checksum")
    values = unseal(text)
    if (values.get("format"), values.get("version")) != (FORMAT, VERSION):
        told = f"{values.get('format')!r} of version {values.get('version')!r}"
        raise ValueError(f"expected {FORMAT!r} of version {VERSION}, and it is {told[:100]}")
    return parse(_File, values)


def refuse_missing_classes(job: Job, shapes: Iterable[Shape], files: Sequence[str | Path]) -> None:
    """Check that the job's classes, if it has some, have a schedule for every planned picture.

    :param files: the Parquet files of the manifest.
    :raises JobError: a line for each class that is missing.
    """
    known = {one.of for one in job.cache.classes}
    missing: Counter[PictureClass] = Counter()
    for shape in shapes if known else ():
        missing[PictureClass.of(*shape[:3], negative=shape.negative)] += shape.pictures
    rows = {its: _first_row(job, files, its) for its in missing if its not in known}
    if rows:
        lines = [
            f"  {counted(missing[its], 'picture')} of {its}; the first is in row {row} (rows are "
            "counted from 0, over all files)"
            for its, row in rows.items()
        ]
        raise JobError(
            "The schedule in [cache] does not say which steps to compute for\n"
            + "\n".join(lines)
            + f"\nIt has classes of {'; '.join(map(str, sorted(known)))}. Calibrate with this "
            "manifest, or leave these rows out of it."
        )


def _first_row(job: Job, files: Sequence[str | Path], wanted: PictureClass) -> int:
    """The first row of a class."""
    before = 0
    for block in image_shapes(files, job.sampling, job.manifest.columns):
        codes, first = np.unique(block.codes(), return_index=True)
        rows: list[int] = [
            row
            for code, row in zip(codes.tolist(), first.tolist(), strict=True)
            if _class_of(code) == wanted
        ]
        if rows:
            return before + min(rows)
        before += len(block.codes())
    raise AssertionError("a planned shape is in no row")


def _class_of(code: int) -> PictureClass:
    """The class of a row's shape, as `ShapeColumns.codes` has it."""
    width, height, steps, negative = decode_shape(code)
    return PictureClass.of(width, height, steps, negative=negative)
