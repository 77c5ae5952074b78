"""The finished run: statistics, contact sheet, dataset card, wids index.

Happens by itself when the last shard is published, by whichever worker or `resume` sees it; doing it twice gives the
same files. `index.json` comes last: a run that has it is complete.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from batchgen import durable
from batchgen.card import dataset_card
from batchgen.contact import contact_sheet
from batchgen.run import Run
from batchgen.statistics import gather
from batchgen.store import Done, Store
from batchgen.tally import tally


def finalize(run: Run) -> bool:
    """Make the run complete if every shard is committed; whether it is."""
    store = run.store
    was_complete = store.complete()  # asked first: what follows may be overtaken by workers who make it so
    committed = store.committed()
    for shard in sorted(committed - store.published()):
        store.roll_forward(shard)
    if len(committed) < len(run.plan.shards):
        if was_complete:  # a damaged shard was taken away: the run is incomplete again
            durable.remove(store.index)
        return False
    if was_complete:
        return True
    done = [store.read_done(shard) for shard in sorted(committed)]
    statistics = gather(store, done)
    durable.replace(store.root / "statistics.json", json.dumps(asdict(statistics), indent=1).encode() + b"\n")
    sheet = contact_sheet([store.data(one.shard) for one in done if one.tar], run.job.output.format)
    if sheet:
        durable.replace(store.root / "contact.jpg", sheet)
    durable.replace(store.root / "README.md", dataset_card(run, statistics).encode())
    for shard in committed:
        store.sweep(shard)
    tally(store).save(store)
    durable.replace(store.index, wids_index(store, done).encode())
    return True


def wids_index(store: Store, done: list[Done]) -> str:
    """The index that `wids.ShardListDataset` reads: paths relative to it, sizes, MD5 sums and samples of every tar."""
    shards = [{"url": f"data/{one.tar}", "md5sum": one.tar_md5, "nsamples": one.ok, "filesize": one.tar_bytes} for one in done if one.tar]
    return json.dumps({"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": store.root.name, "shardlist": shards}, indent=1) + "\n"
