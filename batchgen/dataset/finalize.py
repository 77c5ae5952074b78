"""Complete a run: statistics, contact sheet, dataset card, wids index.

Any worker or `resume` does this when it sees that every shard is committed. Doing it twice gives
the same files. `index.json` is written last: a run that has it is complete.
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
    """Complete the run if every shard is committed.

    :return: whether the run is complete.
    """
    directory = run.directory
    # Asked before the commits are listed: other workers may complete the run at any moment.
    was_complete = directory.complete()
    committed = committed_shards(directory)
    for shard in sorted(committed - published_shards(directory)):
        roll_forward(directory, shard)
    if len(committed) < len(run.plan.shards):
        if was_complete:  # a person took a damaged shard away
            durable.remove(directory.index)
        return False
    if not was_complete:
        _write_summaries(run, committed)
    return True


def _write_summaries(run: Run, committed: set[int]) -> None:
    directory, root = run.directory, run.directory.root
    done = [read_done(directory, shard) for shard in sorted(committed)]
    statistics = gather(directory, done)
    text = json.dumps(asdict(statistics), indent=1) + "\n"
    durable.replace(root / "statistics.json", text.encode())
    tars = [directory.data(one.shard) for one in done if one.tar]
    if sheet := contact_sheet(tars, run.job.output.format):
        durable.replace(root / "contact.jpg", sheet)
    durable.replace(root / "README.md", dataset_card(run, statistics).encode())
    for shard in committed:
        sweep(directory, shard)
    count_pictures(directory).save(directory)
    durable.replace(directory.index, _wids_index(directory, done).encode())


def _wids_index(directory: RunDirectory, done: list[Done]) -> str:
    """The index that `wids.ShardListDataset` reads: its paths are relative to it."""
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
    index = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": directory.root.name,
        "shardlist": shards,
    }
    return json.dumps(index, indent=1) + "\n"
