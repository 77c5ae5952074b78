"""A plan goes on: rows are appended, or a trial's rest is made.

All rows are checked together, the earlier ones too: ids must differ over all files, and columns and
their types be the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from batchgen.errors import InputError, ManifestError, one_line
from batchgen.manifest import ShapeColumns, gather_files, image_shapes, kind_of
from batchgen.model import Checkpoint
from batchgen.planning.cut import later_shard_size
from batchgen.planning.cut_list import Places, cut_list, locate_keys, shapes_of_list
from batchgen.planning.estimate import estimate_cost
from batchgen.planning.plan import AddedRows, Plan, Shape, Shard
from batchgen.planning.planner import check_rows
from batchgen.planning.schedule_file import refuse_missing_classes
from batchgen.planning.stretch import count_shapes, cut_stretch, stretch
from batchgen.settings import Job

Ints = npt.NDArray[np.int64]
# Every worker holds the list of the pictures that a sample has left, 40 bytes each.
MOST_SAMPLED = 5_000_000


@dataclass(frozen=True, slots=True)
class NewPictures:
    """Pictures that follow those of a plan, and their shards."""

    shapes: tuple[Shape, ...]
    shards: tuple[Shard, ...]
    groups: int
    seconds: float
    bytes: int

    @property
    def pictures(self) -> int:
        """How many there are."""
        return sum(shard.pictures for shard in self.shards)


def sample_plan(
    plan: Plan, job: Job, checkpoint: Checkpoint | None, pictures: int
) -> tuple[Plan, Places]:
    """A trial of pictures from all over the manifest, drawn by the run's seed.

    :param plan: of the whole manifest.
    :param pictures: how many; fewer than the manifest has.
    :return: the trial's plan, still without its list, and the pictures.
    :raises InputError: the manifest has too many pictures for lists of them.
    """
    if plan.pictures > MOST_SAMPLED:
        raise InputError(
            f"--sample works with up to {MOST_SAMPLED:,} pictures, and the manifest has "
            f"{plan.pictures:,}: make a trial of the first ones with --limit"
        )
    draw = np.random.default_rng(job.sampling.seed)
    keys = np.sort(draw.choice(plan.pictures, pictures, replace=False)).astype(np.int64)
    places = locate_keys(_blocks(plan, job), keys)
    new = _listed(plan, job, checkpoint, places)
    trial = plan.model_copy(
        update={
            "whole": plan.pictures,
            "pictures": pictures,
            "shapes": new.shapes,
            "shards": new.shards,
            "groups": new.groups,
            "seconds": new.seconds,
            "bytes": new.bytes,
        }
    )
    return trial, places


def rest_of_sample(
    plan: Plan, job: Job, checkpoint: Checkpoint | None, made: Ints
) -> tuple[NewPictures, Places]:
    """The pictures that a sample has left.

    :param made: the keys of the sample, in ascending order.
    """
    keys = np.setdiff1d(np.arange(plan.whole), made, assume_unique=True)
    places = locate_keys(_blocks(plan, job), keys)
    return _listed(plan, job, checkpoint, places), places


def _blocks(plan: Plan, job: Job) -> Iterator[ShapeColumns]:
    files = [source.path for source in plan.sources]
    return image_shapes(files, job.sampling, job.manifest.columns)


def _listed(plan: Plan, job: Job, checkpoint: Checkpoint | None, places: Places) -> NewPictures:
    """A list of new pictures, cut into shards."""
    pictures, shapes = len(places.keys), shapes_of_list(places)
    cost = estimate_cost(shapes, job, checkpoint, plan.contrasted)
    size = later_shard_size(plan, job, pictures)
    shards, groups = cut_list(places, size, job.engine.batch_size)
    seconds = cost.seconds * pictures * (1 + job.audited_share)
    return NewPictures(shapes, shards, groups, seconds, round(cost.bytes * pictures))


def append_rows(
    plan: Plan, job: Job, checkpoint: Checkpoint | None, more: Sequence[str | Path], parquet: Path
) -> AddedRows:
    """Check rows that are appended to a plan's manifest, together with those before.

    :param more: files, globs or folders; or URLs of such.
    :param parquet: where they are converted to if they are not Parquet; not touched for Parquet.
        Parquet behind URLs is kept in the folder of this name without its extension.
    :raises ManifestError: rows break the contract, or have other columns or types than the run.
    """
    found = gather_files(more, parquet.with_suffix(""))
    converted = kind_of(found.files[0]) != "parquet"
    before = [Path(source.path) for source in plan.sources]
    with found.by_name():
        own = check_rows(found.files, job, checkpoint, parquet) if converted else None
        rows = [parquet] if own else found.files
        together = check_rows([*before, *rows], job, checkpoint, None)
    if own:  # its rows are in `parquet` now
        found.drop()
    if not plan.is_older:
        _refuse_other_types(plan.json_types, dict(together.json_types))
    sources = together.sources[len(before) :]
    return AddedRows(
        manifest=tuple(found.names),
        sources=sources,
        content=own.content if own else tuple(source.sha256 for source in sources),
        read_as=own.described if own else "",
        rows=together.rows - plan.rows,
        pictures=together.pictures - (plan.whole or plan.pictures),
        over_long=together.over_long - plan.over_long,
    )


def plan_further(
    plan: Plan, job: Job, checkpoint: Checkpoint | None, files: Sequence[str]
) -> NewPictures:
    """Cut all pictures that a plan has left into shards.

    :param files: Parquet, all of the manifest in order, with those that were appended.
    """
    begin, batch_size, mapping = plan.following, job.engine.batch_size, job.manifest.columns
    shapes = count_shapes(stretch(image_shapes(files, job.sampling, mapping), begin))
    if checkpoint:
        refuse_missing_classes(job, shapes, list(files))
    pictures = sum(shape.pictures for shape in shapes)
    cost = estimate_cost(shapes, job, checkpoint, plan.contrasted)
    size = later_shard_size(plan, job, pictures)
    blocks = stretch(image_shapes(files, job.sampling, mapping), begin)
    shards, groups = cut_stretch(blocks, begin, size, batch_size)
    return NewPictures(
        shapes=shapes,
        shards=shards,
        groups=groups,
        seconds=cost.seconds * pictures * (1 + job.audited_share),
        bytes=round(cost.bytes * pictures),
    )


def _refuse_other_types(planned: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Check that the samples' JSON can go on having the types that it has.

    :raises ManifestError: it cannot, with the first column.
    """
    for name, kind in found.items():
        if planned.get(name) != kind:
            raise ManifestError(
                f"column {one_line(name)}: is {planned.get(name, 'not there')} in the run's "
                f"samples, and would be {kind} with these rows. Give them values of the same kind, "
                "or submit them as a run of their own"
            )
