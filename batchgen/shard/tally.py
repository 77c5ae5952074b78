"""Count what is done, from the files on disk (P8).

A commit is opened once. The counts are kept in `.batchgen/summary.json`, so counting a run of
100,000 finished shards opens only the commits that are new. The summary is recomputable and may
be deleted at any time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from batchgen import durable
from batchgen.checked_json import seal, unseal
from batchgen.regular_file import read_regular
from batchgen.run import RunDirectory
from batchgen.shard.commit import Done, committed_shards, read_done
from batchgen.shard.loss import Loss

# So many newly opened commits make a new summary worth writing.
SAVE_AFTER = 100


@dataclass
class Tally:
    """Counts over committed shards."""

    shards: set[int] = field(default_factory=set)
    # Those of them that have no tar, because they have no good picture.
    tarless: set[int] = field(default_factory=set)
    ok: int = 0
    failed: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    device_s: float = 0.0
    loss: Loss = field(default_factory=Loss)

    @classmethod
    def load(cls, directory: RunDirectory) -> Tally:
        """The last summary; zeros if there is none or it cannot be read."""
        try:
            raw = unseal(read_regular(directory.summary))
            shards, tarless = _members(raw.pop("shards")), _members(raw.pop("tarless"))
            failures, loss = Counter(raw.pop("failures")), Loss(**raw.pop("loss", {}))
            return cls(shards=shards, tarless=tarless, failures=failures, loss=loss, **raw)
        except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):
            return cls()

    def add(self, directory: RunDirectory, shards: set[int]) -> None:
        """Open and count the commits of these shards."""
        for shard in shards:
            self._count(read_done(directory, shard))

    def _count(self, done: Done) -> None:
        self.shards.add(done.shard)
        if done.tar is None:
            self.tarless.add(done.shard)
        self.ok += done.ok
        self.failed += done.failed
        self.failures.update(done.failures)
        self.bytes += done.tar_bytes
        self.device_s += done.group_s
        self.loss = self.loss.plus(done.loss)

    def without(self, lost: Sequence[Done]) -> Tally:
        """The counts without these commits, whose files are gone; what they lost was measured."""
        away = Tally()
        for done in lost:
            away._count(done)
        return Tally(
            self.shards - away.shards,
            self.tarless - away.tarless,
            self.ok - away.ok,
            self.failed - away.failed,
            self.failures - away.failures,
            self.bytes - away.bytes,
            self.device_s - away.device_s,
            self.loss,
        )

    def save(self, directory: RunDirectory) -> None:
        """Write the summary."""
        raw = {
            "shards": _ranges(self.shards),
            "tarless": _ranges(self.tarless),
            "ok": self.ok,
            "failed": self.failed,
            "failures": dict(self.failures),
            "bytes": self.bytes,
            "device_s": self.device_s,
            "loss": asdict(self.loss),
        }
        durable.replace(directory.summary, seal(raw))


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


def _members(ranges: Iterable[tuple[int, int]]) -> set[int]:
    return {number for first, last in ranges for number in range(first, last + 1)}


def _ranges(numbers: set[int]) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges
