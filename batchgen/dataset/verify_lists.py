"""Verify the lists of later generations: against the manifest, their plans and their records."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from batchgen.errors import DamagedRun, counted
from batchgen.manifest import image_shapes
from batchgen.planning import Generation, KeyList, cut_list, locate_keys
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
    for generation in run.plan.later:
        if not generation.listed:
            continue
        path = run.directory.inner / generation.listed.file
        try:
            wrong = _wrong(run, generation, generation.listed, manifest=manifest)
        except DamagedRun as error:
            yield str(error)
        else:
            if wrong:
                yield f"{path}: {wrong}"


def _wrong(run: Run, generation: Generation, file: KeyList, *, manifest: bool) -> str:
    listed = read_list(run.directory, file)
    keys = listed["index"].to_numpy()
    if len(keys) != generation.pictures or (np.diff(keys) <= 0).any():
        return f"not a list of {counted(generation.pictures, 'picture')}"
    if (shards_of(run, keys, before=generation.generation) != listed["shard"].to_numpy()).any():
        return "it names other shards than those that have its pictures"
    number, earlier = generation.generation, run.plan.later[: generation.generation - 1]
    lists = [one.listed for one in earlier if one.listed]
    seeds = number if generation.new_seeds else reseeded_by(run.directory, lists, keys)
    if (listed["reseeded"].to_numpy() != seeds).any():
        return "it gives pictures other seeds than its plan"
    if not manifest:
        return ""
    plan, job = run.plan, run.job
    files = [source.path for source in plan.sources]
    try:
        places = locate_keys(image_shapes(files, job.sampling, job.manifest.columns), keys)
    except ValueError as error:
        return f"it has other pictures: {error}"
    for name, there in (("row", places.rows), ("image", places.images)):
        if (listed[name].to_numpy() != there).any():
            return f"its column {name} is not that of the manifest"
    size = generation.shards[0].pictures
    if cut_list(places, size, job.engine.batch_size) != (generation.shards, generation.groups):
        return f"{run.directory.generation(generation.generation)} has other shards or groups"
    return ""
