"""What is done, counted from the files on disk (P8).

A commit is opened once: what was counted is kept in `.batchgen/summary.json`, so asking a run of 100,000 finished
shards opens only what is new since the last question. The summary is recomputable and may be deleted at any time.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from batchgen import durable
from batchgen.run import RunDirectory
from batchgen.shard.commit import committed_shards, read_done

SAVE_AFTER = 100  # newly opened commits that make a new summary worth writing


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
        """The last summary; empty where there is none or it cannot be read."""
        try:
            raw = json.loads(directory.summary.read_bytes())
            shards = {
                shard for first, last in raw.pop("shards") for shard in range(first, last + 1)
            }
            return cls(shards=shards, failures=Counter(raw.pop("failures")), **raw)
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
            return cls()

    def refresh(self, directory: RunDirectory) -> int:
        """Open and count the commits that are new; how many there were."""
        new = committed_shards(directory) - self.shards
        for shard in new:
            done = read_done(directory, shard)
            self.ok += done.ok
            self.failed += done.failed
            self.failures.update(done.failures)
            self.bytes += done.tar_bytes
            self.device_s += done.group_s
        self.shards |= new
        return len(new)

    def save(self, directory: RunDirectory) -> None:
        """Write the summary."""
        raw = {
            "shards": _ranges(self.shards),
            "ok": self.ok,
            "failed": self.failed,
            "failures": dict(self.failures),
        }
        durable.replace(
            directory.summary,
            json.dumps(raw | {"bytes": self.bytes, "device_s": self.device_s}).encode(),
        )


def count_pictures(directory: RunDirectory) -> Tally:
    """Count now; renew the summary when much was new."""
    counts = Tally.load(directory)
    if counts.shards - committed_shards(
        directory
    ):  # a person took a damaged shard away: the summary counts what is gone
        durable.remove(directory.summary)  # and would go on to, once the shard is made again
        counts = Tally()
    if counts.refresh(directory) >= SAVE_AFTER:
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
