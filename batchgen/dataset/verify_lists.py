"""Verify the lists of later generations: against the manifest, their plans and their records."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from batchgen.errors import DamagedRun, counted
from batchgen.manifest import image_shapes
from batchgen.planning import KeyList, Part, cut_list, locate_keys
from batchgen.run import Run, read_list, reseeded_by
from batchgen.shard import key_text, listed_places, shards_of


def expected_places(run: Run, number: int) -> pa.Table | None:
    """The pictures of a shard by the list of its generation; None if they are consecutive.

    :raises DamagedRun: the list is gone or damaged, which `list_problems` tells too.
    """
    return listed_places(run, number) if run.plan.part_of(number).listed else None


def misplaced_records(table: pa.Table, listed: pa.Table) -> Iterator[str]:
    """Records whose row is not the listed one. Both tables are in the order of keys."""
    names = ["index", "row", "image"]
    for found, planned in zip(
        table.select(names).to_pylist(), listed.select(names).to_pylist(), strict=True
    ):
        if found != planned:
            yield (
                f"picture {key_text(found['index'])} is of row {found['row']}, image "
                f"{found['image']}; not of row {planned['row']}, image {planned['image']}"
            )
            return


def list_problems(run: Run, *, manifest: bool) -> Iterator[str]:
    """What is wrong with the lists of all generations: a sentence for each list.

    :param manifest: whether the manifest can be read.
    """
    for part in run.plan.parts():
        if part.listed is None:
            continue
        try:
            wrong = _wrong(run, part, part.listed, manifest=manifest)
        except DamagedRun as error:
            yield str(error)
        else:
            if wrong:
                yield f"{run.directory.inner / part.listed.file}: {wrong}"


def _wrong(run: Run, part: Part, file: KeyList, *, manifest: bool) -> str:
    plan, job = run.plan, run.job
    later = plan.later[part.generation - 1] if part.generation else None
    earlier = plan.later[: part.generation - 1] if later else ()
    shards = plan.shards[part.first_shard : part.end_shard]
    pictures = sum(shard.pictures for shard in shards)
    listed = read_list(run.directory, file)
    keys = listed["index"].to_numpy()
    if len(keys) != pictures or (np.diff(keys) <= 0).any():
        return f"not a list of {counted(pictures, 'picture')}"
    if (shards_of(run, keys, before=part.generation) != listed["shard"].to_numpy()).any():
        return "it names other shards than those that have its pictures"
    lists = [one.listed for one in earlier if one.listed]
    renewed = later is not None and later.new_seeds
    seeds = part.generation if renewed else reseeded_by(run.directory, lists, keys)
    if (listed["reseeded"].to_numpy() != seeds).any():
        return "it gives pictures other seeds than its plan"
    if not manifest:
        return ""
    files = [source.path for source in plan.sources]
    try:
        places = locate_keys(image_shapes(files, job.sampling, job.manifest.columns), keys)
    except ValueError as error:
        return f"it has other pictures: {error}"
    for name, there in (("row", places.rows), ("image", places.images)):
        if (listed[name].to_numpy() != there).any():
            return f"its column {name} is not that of the manifest"
    groups = later.groups if later else plan.groups - sum(one.groups for one in plan.later)
    if cut_list(places, shards[0].pictures, job.engine.batch_size) != (shards, groups):
        return "its plan has other shards or groups"
    return ""
