"""What readers can see of a run, compared with its commits: files that are gone, and strangers.

Folders are listed. Only what is missing or strange there is looked at, so that a run of 100,000
shards is compared in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from batchgen.run import RunDirectory
from batchgen.shard.commit import Done, committed_shards, files_in, published_shards, read_done

_ATTEMPT_FILE = re.compile(r"^(\d{6,})\.\d{4,}\.\w+$")


def lost_shards(
    directory: RunDirectory, committed: set[int], tarless: Collection[int]
) -> list[Done]:
    """Commits whose tar or metadata is gone: neither published nor about to be.

    :param committed: the shards to look at.
    :param tarless: those of them that have no good picture.
    """
    metadata, tars = published_shards(directory), files_in(directory.root / "data")
    missing = (committed - metadata) | (committed - tars).difference(tarless)
    commits = (read_done(directory, shard) for shard in sorted(missing))
    return [done for done in commits if missing_names(directory, done)]


def missing_names(directory: RunDirectory, done: Done) -> list[Path]:
    """The published names of a committed shard's files that are gone.

    Others may publish a file at this moment. The attempt's own name goes only after the published
    name is there, so it is looked at first.
    """
    names = done.names(directory)
    return [target for source, target in names if not (source.is_file() or target.is_file())]


def shards_with_attempts(directory: RunDirectory) -> set[int]:
    """Shards with files of attempts: begun and not published, or published and not swept."""
    names = (path.name for path in (directory.inner / "partial").glob("*/*"))
    return {int(match[1]) for name in names if (match := _ATTEMPT_FILE.match(name))}


def strange_files(directory: RunDirectory, planned: int, tarless: Collection[int]) -> list[Path]:
    """Files that readers take for the run's, and that it did not publish; commits likewise.

    :param planned: how many shards there are.
    :param tarless: committed shards without a good picture.
    """
    visible = sorted(
        path
        for folder, suffix in (("data", "tar"), ("metadata", "parquet"))
        for path in (directory.root / folder).glob(f"[!.]*.{suffix}")
    )
    committed = committed_shards(directory)  # listed after the files: a commit comes first
    ours = {directory.metadata(shard) for shard in committed if shard < planned}
    ours |= {directory.data(shard) for shard in committed.difference(tarless) if shard < planned}
    beyond = [directory.done(shard) for shard in sorted(committed) if shard >= planned]
    return [path for path in visible if path not in ours] + beyond
