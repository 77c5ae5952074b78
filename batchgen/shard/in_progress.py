"""batchgen.shard.in_progress."""

from __future__ import annotations

from collections.abc import Iterator

from batchgen.run import RunDirectory
from batchgen.shard.commit import committed_shards
from batchgen.shard.journal import Entry, ends_that_count, read_journal
from batchgen.shard.records import Record, parse


def furthest(directory: RunDirectory, published: set[int]) -> dict[int, tuple[int, Entry]]:
    """For every shard that is begun and not published: the attempt that came furthest, and its last end."""
    found: dict[int, tuple[int, Entry]] = {}
    for path in (directory.inner / "partial").glob("*/*.journal"):
        shard, attempt = (int(number) for number in path.name.split(".")[:2])
        ends = [] if shard in published else ends_that_count(read_journal(path))
        if ends and (shard not in found or ends[-1].at > found[shard][1].at):
            found[shard] = attempt, ends[-1]
    return found


def unpublished_verdicts(directory: RunDirectory) -> Iterator[Entry]:
    """All that were given in shards that are not published yet."""
    for path in (directory.inner / "partial").glob("*/*.journal"):
        yield from (entry for entry in read_journal(path) if entry.do == "verdict")


def unpublished_records(directory: RunDirectory) -> Iterator[Record]:
    """Records of pictures that are written and not published yet, shard by shard."""
    for shard, (attempt, end) in sorted(furthest(directory, committed_shards(directory)).items()):
        path = directory.partial(shard, attempt, "records")
        try:
            lines = path.read_bytes()[: end.records]
        except FileNotFoundError:  # published a moment ago
            continue
        yield from parse(lines, str(path))


def unpublished_counts(directory: RunDirectory, committed: set[int]) -> tuple[int, int]:
    """Pictures written into partials but not yet published: (ok, failed); the furthest attempt of a shard counts."""
    ends = [end for _, end in furthest(directory, committed).values()]
    failed = sum(end.failed for end in ends)
    return sum(end.at for end in ends) - failed, failed
