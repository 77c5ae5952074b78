"""Open damaged shards of a run again, so that `resume` makes them, and wrong summaries too.

What is replaced is put aside, never deleted. The commit goes last: until then the shard stays
committed and damaged, and a repair that was killed is begun again. The claims stay, and the last
one is released, so whoever comes next makes the next attempt. If the winning attempt's own files
are still there and whole, they are published instead, and nothing is made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from batchgen import durable
from batchgen.dataset.summaries import wrong_summaries
from batchgen.errors import DamagedRun, StillRunning, shell_command
from batchgen.run import Run, RunDirectory, new_aside, put_aside
from batchgen.shard import Claim, last_attempt, read_done, read_owner, roll_forward
from batchgen.slurm import Queue


def repair_run(run: Run, damaged: Sequence[int]) -> Path | None:
    """Open shards again whose published files are damaged or missing; put wrong summaries aside.

    :param damaged: their numbers.
    :return: the folder that has now what was replaced; None if nothing had to be.
    :raises StillRunning: a worker of one of these shards lives.
    """
    directory = run.directory
    _refuse_living(directory, damaged)
    wrong = wrong_summaries(run)
    if not (damaged or wrong):
        return None
    aside = new_aside(directory)
    put_aside(directory, directory.index, aside)  # first: a damaged run is not complete
    for path in wrong.keys() - {directory.index}:
        put_aside(directory, path, aside)
    for shard in damaged:
        put_aside(directory, directory.metadata(shard), aside)
        put_aside(directory, directory.data(shard), aside)
        if not _publish_again(directory, shard):
            put_aside(directory, directory.done(shard), aside)
            if attempt := last_attempt(directory, shard):
                Claim(directory, shard, attempt).release()
    durable.remove(directory.summary)  # it counts the shards as they were
    return aside


def _refuse_living(directory: RunDirectory, shards: Sequence[int]) -> None:
    queue = Queue(enough=1)
    for shard in shards:
        for attempt in range(1, last_attempt(directory, shard) + 1):
            owner = read_owner(directory, shard, attempt)
            if owner and owner.life(queue) == "alive":
                cancel = shell_command("batchgen", "cancel", directory.root)
                where = f"process {owner.pid} on {owner.host}"
                raise StillRunning(
                    f"a worker that had shard {shard:06d} lives ({where}). Wait until it ends, or "
                    f"end it with: {cancel}"
                )


def _publish_again(directory: RunDirectory, shard: int) -> bool:
    """Publish the committed files if they are still there under their attempt's names."""
    try:
        done = read_done(directory, shard)
    except (DamagedRun, FileNotFoundError):
        return False
    hashes = {
        directory.data(shard): done.tar_sha256,
        directory.metadata(shard): done.metadata_sha256,
    }
    names = done.names(directory)
    if not all(_has_hash(source, hashes[target]) for source, target in names):
        return False
    roll_forward(directory, shard)
    return True


def _has_hash(path: Path, sha256: str) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256
