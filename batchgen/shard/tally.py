"""Count what is done, from the files on disk (P8).

A commit is opened once. The counts are kept in `.batchgen/summary.json`, so counting a run of
100,000 finished shards opens only the commits that are new. The summary is recomputable and may
be deleted at any time.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from batchgen import durable
from batchgen.run import RunDirectory
from batchgen.shard.commit import committed_shards, read_done

# So many newly opened commits make a new summary worth writing.
SAVE_AFTER = 100


@dataclass
class Tally:
    """Counts over committed shards."""

    shards: set[int] = field(default_factory=set)
    ok: int = 0
    failed: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    device_s: float = 0.0

    @classmethod
    def load(cls, directory: RunDirectory) -> Tally:
        """The last summary; zeros if there is none or it cannot be read."""
        try:
            raw = json.loads(directory.summary.read_bytes())
            ranges = raw.pop("shards")
            shards = {shard for first, last in ranges for shard in range(first, last + 1)}
            return cls(shards=shards, failures=Counter(raw.pop("failures")), **raw)
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
            return cls()

    def add(self, directory: RunDirectory, shards: set[int]) -> None:
        """Open and count the commits of these shards."""
        for shard in shards:
            done = read_done(directory, shard)
            self.ok += done.ok
            self.failed += done.failed
            self.failures.update(done.failures)
            self.bytes += done.tar_bytes
            self.device_s += done.group_s
        self.shards |= shards

    def save(self, directory: RunDirectory) -> None:
        """Write the summary."""
        raw = {
            "shards": _ranges(self.shards),
            "ok": self.ok,
            "failed": self.failed,
            "failures": dict(self.failures),
            "bytes": self.bytes,
            "device_s": self.device_s,
        }
        durable.replace(directory.summary, json.dumps(raw).encode())


def count_pictures(directory: RunDirectory) -> Tally:
    """Count now; write a new summary if many commits were new."""
    counts, committed = Tally.load(directory), committed_shards(directory)
    if counts.shards - committed:
        # A person took a damaged shard away. The summary counts it as it was, now and after it is
        # made again.
        durable.remove(directory.summary)
        counts = Tally()
    new = committed - counts.shards
    counts.add(directory, new)
    if len(new) >= SAVE_AFTER:
        counts.save(directory)
    return counts


def _ranges(numbers: set[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges
