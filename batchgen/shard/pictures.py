"""Read a shard's pictures from the manifest: the plan holds ranges of rows, not prompts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchgen import manifest
from batchgen.manifest import ManifestRows, Picture
from batchgen.planning import Part, groups
from batchgen.run import Run, read_list

Ints = npt.NDArray[np.int64]
# Rows between two listed ones that are read along.
GAP = 256


def read_shard(run: Run, number: int) -> tuple[list[list[Picture]], pa.Table]:
    """The shard's groups, and the manifest's other columns with one row a picture in plan order.

    :raises ManifestError: the rows cannot be read any more.
    :raises DamagedRun: the list of its generation is gone or damaged.
    """
    part = run.plan.part_of(number)
    pictures, travelling = _listed(run, part, number) if part.listed else _range(run, part, number)
    if run.plan.is_older:
        pictures = [
            replace(one, extra=json.dumps(one.extra, ensure_ascii=False)) for one in pictures
        ]
    order = list(groups(pictures, run.job.engine.batch_size))
    places = {one.key: place for place, one in enumerate(pictures)}
    return order, travelling.take([places[one.key] for group in order for one in group])


def listed_places(run: Run, number: int) -> pa.Table:
    """The pictures of a shard of a listed generation, with the columns of its list.

    :raises DamagedRun: the list is gone or damaged.
    """
    part = run.plan.part_of(number)
    assert part.listed, "only a generation with a list has its pictures there"
    before = run.plan.shards[part.first_shard : number]
    listed = read_list(run.directory, part.listed)
    at, count = sum(shard.pictures for shard in before), run.plan.shards[number].pictures
    return listed.slice(at, count)


def shards_of(run: Run, keys: Ints, *, before: int) -> Ints:
    """The shards that have the records of pictures; -1 for those that were not planned.

    :param keys: in ascending order.
    :param before: the generation before which they have them.
    :raises DamagedRun: the list of a generation is gone or damaged.
    """
    plan = run.plan
    found = np.full(len(keys), -1, np.int64)
    for part in plan.parts()[:before]:
        shards = plan.shards[part.first_shard : part.end_shard]
        numbers = np.arange(part.first_shard, part.end_shard)
        if part.listed:
            theirs = read_list(run.directory, part.listed)["index"].to_numpy()
            at = np.minimum(np.searchsorted(theirs, keys), len(theirs) - 1)
            of_position = np.repeat(numbers, [shard.pictures for shard in shards])
            found = np.where(theirs[at] == keys, of_position[at], found)
        else:
            at = np.searchsorted([one.first_key for one in shards], keys, side="right") - 1
            inside = (at >= 0) & (keys < part.end.first_key)
            found = np.where(inside, numbers[np.maximum(at, 0)], found)
    return found


def _range(run: Run, part: Part, number: int) -> tuple[list[Picture], pa.Table]:
    """Consecutive pictures, and the other columns of each."""
    plan, shard = run.plan, run.plan.shards[number]
    following = plan.shards[number + 1] if number + 1 < part.end_shard else part.end
    # A row of several pictures may be split over two shards: it is the last of one, the first of
    # the next.
    end_row = following.row + (following.skip > 0)
    rows = manifest.read_rows(
        plan.sources, shard.row, end_row - shard.row, run.job.manifest.columns
    )
    pictures = manifest.pictures(
        rows,
        first_row=shard.row,
        first_key=shard.first_key,
        skip=shard.skip,
        count=shard.pictures,
        sampling=run.job.sampling,
        json_types=None if plan.is_older else plan.json_types,
    )
    return pictures, _extras_of(rows, shard.row, pictures)


def _listed(run: Run, part: Part, number: int) -> tuple[list[Picture], pa.Table]:
    """The pictures of a list, and the other columns of each."""
    plan, made, tables = run.plan, list[Picture](), []
    wanted = listed_places(run, number)
    names = ("index", "row", "image")
    places = list(zip(*(wanted[name].to_pylist() for name in names), strict=True))
    rows_of = wanted["row"].to_numpy()
    for first, count in _runs(np.unique(rows_of)):
        ours_from, ours_to = np.searchsorted(rows_of, [first, first + count])
        rows = manifest.read_rows(plan.sources, first, count, run.job.manifest.columns)
        ours = manifest.listed_pictures(
            rows,
            first_row=first,
            places=places[ours_from:ours_to],
            sampling=run.job.sampling,
            json_types=None if plan.is_older else plan.json_types,
        )
        made += ours
        tables.append(_extras_of(rows, first, ours))
    if [one.key for one in made] != [key for key, _, _ in places]:
        raise ValueError(f"the manifest has not all pictures of generation {part.generation}")
    reseeded = wanted["reseeded"].to_pylist()
    made = [_reseeded(one, by) for one, by in zip(made, reseeded, strict=True)]
    return made, pa.concat_tables(tables)


def _reseeded(picture: Picture, generation: int) -> Picture:
    """A picture with the seed that a generation gave it; 0 for its own."""
    if not generation:
        return picture
    return replace(picture, seed=manifest.another_seed(picture.seed, generation))


def _extras_of(rows: ManifestRows, first_row: int, pictures: Sequence[Picture]) -> pa.Table:
    extras = manifest.extra_columns(rows.travelling)
    return extras.take([one.row - first_row for one in pictures])


def _runs(rows: Ints) -> Iterator[tuple[int, int]]:
    """Ascending rows as pieces to be read at once: the first row of each, and how many.

    A short gap is read with them, because each piece opens a file.
    """
    for some in np.split(rows, np.flatnonzero(np.diff(rows) > GAP) + 1):
        yield int(some[0]), int(some[-1] - some[0]) + 1
