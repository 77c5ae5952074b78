"""Shards that are begun and not published, read from their attempts' files by other processes.

A shard may have several attempts. The one that has safely written most pictures counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import NamedTuple

from batchgen.regular_file import read_regular
from batchgen.run import RunDirectory
from batchgen.shard.commit import committed_shards
from batchgen.shard.journal import Entry, ends_that_count, read_journal
from batchgen.shard.loss import Loss
from batchgen.shard.records import Record, parse


def furthest(directory: RunDirectory, committed: set[int]) -> dict[int, tuple[int, Entry]]:
    """For every shard in progress: the attempt that counts, and its last `end` entry."""
    found: dict[int, tuple[int, Entry]] = {}
    for path in directory.journals():
        shard, attempt = (int(number) for number in path.name.split(".")[:2])
        ends = [] if shard in committed else ends_that_count(read_journal(path))
        if ends and (shard not in found or ends[-1].at > found[shard][1].at):
            found[shard] = attempt, ends[-1]
    return found


def unpublished_verdicts(directory: RunDirectory) -> Iterator[Entry]:
    """The verdicts in the journals of unpublished shards."""
    for path in directory.journals():
        yield from (entry for entry in read_journal(path) if entry.do == "verdict")


def unpublished_records(directory: RunDirectory) -> Iterator[Record]:
    """Records of the pictures that are written and not published, shard by shard."""
    for shard, (attempt, end) in sorted(furthest(directory, committed_shards(directory)).items()):
        path = directory.partial(shard, attempt, "records")
        try:
            lines = read_regular(path)[: end.records]
        except FileNotFoundError:  # published a moment ago
            continue
        yield from parse(lines, str(path))


class Unpublished(NamedTuple):
    """Pictures that are written and not published: how many are good, how many failed."""

    ok: int = 0
    failed: int = 0
    # What audits measured of them.
    loss: Loss = Loss()

    @property
    def pictures(self) -> int:
        """All of them."""
        return self.ok + self.failed


def unpublished_counts(directory: RunDirectory, committed: set[int]) -> Unpublished:
    """Count the pictures that are written and not published."""
    ends = [end for _, end in furthest(directory, committed).values()]
    failed = sum(end.failed for end in ends)
    loss = reduce(Loss.plus, (Loss(*end.loss) for end in ends), Loss())
    return Unpublished(sum(end.at for end in ends) - failed, failed, loss)
