"""Generations of a run: its later plans, each begun when all before it is complete.

A generation is its file `plan-0001.json`, made by one link: of two who begin one at once, one
begins it and the other is told. From then on the run is incomplete, until its index names the
generation. Published files stay as they are.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import numpy.typing as npt

from batchgen import durable
from batchgen.checked_json import checksum_of
from batchgen.errors import OutputError, shell_command
from batchgen.manifest import image_shapes
from batchgen.planning import (
    Generation,
    cut_list,
    decode_generation,
    encode_generation,
    identify_run,
    list_shard_size,
    locate_keys,
    refuse_change,
    software,
)
from batchgen.regular_file import read_regular
from batchgen.run.key_lists import write_list
from batchgen.run.plan_files import read_plan_file
from batchgen.run.run import Run

Ints = npt.NDArray[np.int64]


def begin_again(
    run: Run, kind: Literal["retry", "remake"], keys: Ints, shards: Ints, *, new_seeds: bool = False
) -> Run:
    """Plan that pictures are made again, as the run's next generation.

    :param run: complete.
    :param keys: of the pictures, in ascending order.
    :param shards: with their present records.
    :return: the run with that generation.
    :raises OutputError: somebody else has just begun one.
    :raises PlanChanged: its pictures would not be made as they were.
    """
    plan, directory, batch_size = run.plan, run.directory, run.job.engine.batch_size
    number = plan.last_generation + 1
    files = [source.path for source in plan.sources]
    places = locate_keys(image_shapes(files, run.job.sampling, run.job.manifest.columns), keys)
    cut, groups = cut_list(places, list_shard_size(plan, len(keys), batch_size), batch_size)
    share = len(keys) / plan.pictures
    generation = Generation(
        run=plan.run,
        generation=number,
        parent=checksum_of(read_plan_file(directory, number - 1)),
        kind=kind,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        listed=write_list(directory, number, places, shards.tolist()),
        new_seeds=new_seeds,
        pictures=len(keys),
        groups=groups,
        first_shard=len(plan.shards),
        shards=cut,
        seconds=plan.seconds * share,
        bytes=round(plan.bytes * share),
        software=software(),
    )
    return _begin(run, generation)


def _begin(run: Run, generation: Generation) -> Run:
    directory, plan = run.directory, run.plan.with_generation(generation)
    # What was complete may have been opened although its pictures would be others now.
    weights = run.checkpoint.identity if run.checkpoint else {}
    identity = identify_run(run.job, run.plan.identity["manifest"], weights)
    refuse_change(run.plan, identity, str(directory.root))
    directory.make_folders(len(plan.shards))
    path = directory.generation(generation.generation)
    if not durable.create(path, encode_generation(generation)):
        theirs = decode_generation(read_regular(path), path)
        if generation.listed != theirs.listed:
            durable.remove(directory.inner / generation.listed.file)
        look = shell_command("batchgen", "status", directory.root)
        raise OutputError(
            f"{directory.root}: another command has just begun generation "
            f"{generation.generation} of this run. Look at it with: {look}"
        )
    return replace(run, plan=plan)
