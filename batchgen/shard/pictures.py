"""Read a shard's pictures from the manifest: the plan holds ranges of rows, not prompts."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow as pa

from batchgen import manifest
from batchgen.manifest import Picture
from batchgen.planning import groups
from batchgen.run import Run


def read_shard(run: Run, number: int) -> tuple[list[list[Picture]], pa.Table]:
    """The shard's groups, and the manifest's other columns with one row a picture in plan order.

    :raises ManifestError: the rows cannot be read any more.
    """
    plan, shard = run.plan, run.plan.shards[number]
    # A row of several pictures may be split over two shards: it is the last of one, the first of
    # the next.
    last = plan.shards[number + 1].row + 1 if number + 1 < len(plan.shards) else plan.rows
    rows = manifest.read_rows(
        plan.sources, shard.row, min(last, plan.rows) - shard.row, run.job.manifest.columns
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
    if plan.is_older:
        pictures = [
            replace(one, extra=json.dumps(one.extra, ensure_ascii=False)) for one in pictures
        ]
    order = list(groups(pictures, run.job.engine.batch_size))
    places = [picture.row - shard.row for group in order for picture in group]
    return order, manifest.extra_columns(rows.travelling).take(places)
