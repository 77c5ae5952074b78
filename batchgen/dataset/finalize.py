"""The finished run: statistics, contact sheet, dataset card, wids index.

Happens by itself when the last shard is published, by whichever worker or `resume` sees it; doing it twice gives the
same files. `index.json` comes last: a run that has it is complete.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from batchgen import durable
from batchgen.dataset.card import dataset_card
from batchgen.dataset.contact_sheet import contact_sheet
from batchgen.dataset.statistics import gather
from batchgen.run import Run, RunDirectory
from batchgen.shard import (
    Done,
    committed_shards,
    count_pictures,
    published_shards,
    read_done,
    roll_forward,
    sweep,
)


def finalize_run(run: Run) -> bool:
    """Make the run complete if every shard is committed; whether it is."""
    directory = run.directory
    was_complete = (
        directory.complete()
    )  # asked first: what follows may be overtaken by workers who make it so
    committed = committed_shards(directory)
    for shard in sorted(committed - published_shards(directory)):
        roll_forward(directory, shard)
    if len(committed) < len(run.plan.shards):
        if was_complete:  # a damaged shard was taken away: the run is incomplete again
            durable.remove(directory.index)
        return False
    if was_complete:
        return True
    done = [read_done(directory, shard) for shard in sorted(committed)]
    statistics = gather(directory, done)
    durable.replace(
        directory.root / "statistics.json",
        json.dumps(asdict(statistics), indent=1).encode() + b"\n",
    )
    sheet = contact_sheet(
        [directory.data(one.shard) for one in done if one.tar], run.job.output.format
    )
    if sheet:
        durable.replace(directory.root / "contact.jpg", sheet)
    durable.replace(directory.root / "README.md", dataset_card(run, statistics).encode())
    for shard in committed:
        sweep(directory, shard)
    count_pictures(directory).save(directory)
    durable.replace(directory.index, wids_index(directory, done).encode())
    return True


def wids_index(directory: RunDirectory, done: list[Done]) -> str:
    """The index that `wids.ShardListDataset` reads: paths relative to it, sizes, MD5 sums and samples of every tar."""
    shards = [
        {
            "url": f"data/{one.tar}",
            "md5sum": one.tar_md5,
            "nsamples": one.ok,
            "filesize": one.tar_bytes,
        }
        for one in done
        if one.tar
    ]
    return (
        json.dumps(
            {
                "__kind__": "wids-shard-index-v1",
                "wids_version": 1,
                "name": directory.root.name,
                "shardlist": shards,
            },
            indent=1,
        )
        + "\n"
    )
