"""index.json: the tars of a dataset, as `wids.ShardListDataset` reads them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

from batchgen.run import RunDirectory
from batchgen.shard import Done


class IndexedTar(NamedTuple):
    """A tar of a dataset."""

    # Relative to the dataset.
    path: str
    md5: str
    pictures: int
    size: int


def run_index(directory: RunDirectory, done: Iterable[Done], generation: int) -> bytes:
    """The index of a run with these shards.

    :param generation: the one whose shards are the last of them. It is asked of the plan that the
        shards are of: on the disk another may have been begun since.
    """
    tars = [
        IndexedTar(f"data/{one.tar}", one.tar_md5, one.ok, one.tar_bytes) for one in done if one.tar
    ]
    return wids_index(directory.root.name, tars, generation)


def wids_index(name: str, tars: Iterable[IndexedTar], generation: int = 0) -> bytes:
    """The index. Its paths are relative to it.

    :param name: the dataset's.
    :param generation: the run's last one, if there are later ones: `RunDirectory.complete` looks
        for it.
    """
    shards = [
        {"url": one.path, "md5sum": one.md5, "nsamples": one.pictures, "filesize": one.size}
        for one in tars
    ]
    index: dict[str, object] = {
        "__kind__": "wids-shard-index-v1",
        "wids_version": 1,
        "name": name,
        "shardlist": shards,
    }
    if generation:
        index["generation"] = generation
    return json.dumps(index, indent=1).encode() + b"\n"
