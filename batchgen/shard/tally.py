"""Count what is done, from the files on disk (P8).

A commit is opened once. The counts are kept in `.batchgen/summary.json`, so counting a run of
100,000 finished shards opens only the commits that are new. The summary is recomputable and may
be deleted at any time. Each picture is counted once, where its latest record is (superseded.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace

from batchgen import durable
from batchgen.checked_json import seal, unseal
from batchgen.errors import DamagedRun
from batchgen.regular_file import read_regular
from batchgen.run import RunDirectory
from batchgen.shard.commit import Done, committed_shards, read_done
from batchgen.shard.loss import Loss
from batchgen.shard.superseded import Superseded

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
    # Good pictures that were made again: their samples stay in older tars, and count no more.
    again: int = 0
    # The later generations that the counts know of.
    generations: int = 0
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

    def add(self, directory: RunDirectory, shards: set[int], superseded: Superseded) -> bool:
        """Open and count the commits of these shards.

        :return: whether the counts are exact, as they are when the shards' metadata can be read.
        """
        inexact = [
            shard for shard in shards if not self._count(read_done(directory, shard), superseded)
        ]
        return not inexact

    def _count(self, done: Done, superseded: Superseded) -> bool:
        self.shards.add(done.shard)
        if done.tar is None:
            self.tarless.add(done.shard)
        self.ok += done.ok
        self.failed += done.failed
        self.failures.update(done.failures)
        self.bytes += done.tar_bytes
        self.device_s += done.group_s
        self.loss = self.loss.plus(done.loss)
        return self._leave_out(done, superseded)

    def _leave_out(self, done: Done, superseded: Superseded) -> bool:
        """Take the records that count no more out again; whether it is known which they are."""
        count = len(superseded.keys(done.shard))
        if not count:
            return True
        try:
            found = superseded.records(done.shard, ["cause"])["cause"].to_pylist()
        except DamagedRun:  # not published yet, or lost; mostly it is failures that are made again
            failed = min(count, done.failed)
            self.ok, self.failed = self.ok - (count - failed), self.failed - failed
            return False
        causes = Counter(cause for cause in found if cause)
        good = count - causes.total()
        self.ok, self.again = self.ok - good, self.again + good
        self.failed, self.failures = self.failed - causes.total(), self.failures - causes
        return True

    def without(self, directory: RunDirectory, lost: Sequence[Done]) -> Tally:
        """The counts without these commits, whose files are gone; what they lost was measured."""
        if not lost:
            return self
        away, superseded = Tally(), Superseded(directory)
        for done in lost:
            away._count(done, superseded)
        return replace(
            self,
            shards=self.shards - away.shards,
            tarless=self.tarless - away.tarless,
            ok=self.ok - away.ok,
            failed=self.failed - away.failed,
            failures=self.failures - away.failures,
            again=self.again - away.again,
            bytes=self.bytes - away.bytes,
            device_s=self.device_s - away.device_s,
        )

    def save(self, directory: RunDirectory) -> None:
        """Write the summary."""
        raw = {
            "shards": _ranges(self.shards),
            "tarless": _ranges(self.tarless),
            "ok": self.ok,
            "failed": self.failed,
            "failures": dict(self.failures),
            "again": self.again,
            "generations": self.generations,
            "bytes": self.bytes,
            "device_s": self.device_s,
            "loss": asdict(self.loss),
        }
        durable.replace(directory.summary, seal(raw))


def count_pictures(directory: RunDirectory) -> Tally:
    """Count now; write a new summary if many commits were new."""
    counts, committed = Tally.load(directory), committed_shards(directory)
    superseded = Superseded(directory)  # after the commits: those of a later generation are not in
    if counts.shards - committed:
        # A person took a damaged shard away. The summary counts it as it was, now and after it is
        # made again.
        durable.remove(directory.summary)
        counts = Tally()
    if counts.generations != superseded.generations:  # it counts records that count no more
        counts = Tally(generations=superseded.generations)
    new = committed - counts.shards
    exact = counts.add(directory, new, superseded)
    if exact and len(new) >= SAVE_AFTER:
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
