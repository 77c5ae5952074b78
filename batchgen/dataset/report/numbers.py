"""The numbers of a report, from the records of published shards, some records at a time.

What `statistics.py` computes is taken from there. Memory is bounded by the numbers
themselves: moments, workers and sizes, not pictures.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchgen.dataset.report.moments import Moment, Timeline
from batchgen.dataset.statistics import Statistics
from batchgen.run import RunDirectory
from batchgen.shard import Done, Superseded, moments_s, stream_metadata

# Audited pictures that are shown, the least faithful ones.
WORST = 10
_COLUMNS = (
    *("index", "outcome", "width", "height", "steps", "skipped", "device_s"),
    *("total_s", "finished_at", "host", "worker", "psnr"),
)


@dataclass(slots=True)
class Worker:
    """What one worker made. Seconds are its device's: text, denoising and decoding."""

    host: str
    worker: int
    ok: int = 0
    failed: int = 0
    device_s: float = 0.0


@dataclass(slots=True)
class SizeClass:
    """Good pictures of one size and number of steps."""

    width: int
    height: int
    steps: int
    pictures: int = 0
    # How many of them computed each step; the others skipped it.
    computed: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def shares(self) -> list[float]:
        """The share of the pictures that computed each step."""
        return [count / self.pictures for count in self.computed.tolist()]

    @property
    def mean_computed(self) -> float:
        """Computed steps of a picture, on average."""
        return int(self.computed.sum()) / self.pictures


@dataclass(frozen=True, slots=True)
class Audited:
    """An audited picture, and where it is. They compare by PSNR, the worst first."""

    psnr_db: float
    shard: int
    index: int


@dataclass
class Numbers:
    """Everything that a report says in numbers. Times are seconds of rank 0 of each worker."""

    statistics: Statistics
    # When the first group began and the last picture was written, seconds since the epoch; None
    # while nothing is published.
    began_at: float | None = None
    ended_at: float | None = None
    # From the fastest to the slowest.
    workers: list[Worker] = field(default_factory=list)
    # The most numerous first.
    classes: list[SizeClass] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    # Seconds that a moment lasts.
    moment_s: float = 1.0
    worst: list[Audited] = field(default_factory=list)

    @property
    def span_s(self) -> float:
        """From the begin of the first group to the end of the last one."""
        return (self.ended_at or 0.0) - (self.began_at or 0.0)

    @property
    def planned_steps(self) -> int:
        """Steps of all good pictures."""
        return sum(one.pictures * one.steps for one in self.classes)

    @property
    def computed_steps(self) -> int:
        """Those of them that were computed."""
        return sum(int(one.computed.sum()) for one in self.classes)


def count_numbers(directory: RunDirectory, done: Sequence[Done], statistics: Statistics) -> Numbers:
    """Read the records of these shards.

    :param statistics: of the same shards.
    :raises DamagedRun: a shard's records are gone or damaged.
    """
    count, superseded = _Count(Timeline.over(directory, done)), Superseded(directory)
    for one in done:
        for table in stream_metadata(directory.metadata(one.shard), _COLUMNS):
            count.add(one.shard, table, superseded.without(one.shard, table))
    return count.numbers(statistics)


class _Count:
    """The numbers of the shards that were added so far."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._began_at = float("inf")
        self._ended_at = float("-inf")
        self._workers: dict[tuple[str, int], Worker] = {}
        self._classes: dict[tuple[int, int, int], SizeClass] = {}
        self._worst: list[Audited] = []

    def add(self, shard: int, table: pa.Table, current: pa.Table) -> None:
        """Count records.

        :param current: those of them that still count; work that counts no more was done too.
        """
        ended = moments_s(table)
        self._began_at = min(self._began_at, float((ended - table["total_s"].to_numpy()).min()))
        self._ended_at = max(self._ended_at, float(ended.max()))
        self._add_workers(table)
        good = current.filter(pc.equal(current["outcome"], "ok"))
        self._timeline.add(moments_s(good), good["total_s"].to_numpy())
        self._add_classes(good)
        if "psnr" in good.column_names:  # batchgen 0.2 and older did not audit
            self._add_audited(shard, good)

    def _add_workers(self, table: pa.Table) -> None:
        shares = pa.table(
            {
                "host": table["host"],
                "worker": table["worker"],
                "ok": pc.equal(table["outcome"], "ok").cast(pa.int64()),
                "one": pa.repeat(1, table.num_rows),
                "device_s": table["device_s"],
            }
        )
        sums = [("ok", "sum"), ("one", "sum"), ("device_s", "sum")]
        for row in shares.group_by(["host", "worker"]).aggregate(sums).to_pylist():
            key = row["host"], row["worker"]
            worker = self._workers.setdefault(key, Worker(*key))
            worker.ok += row["ok_sum"]
            worker.failed += row["one_sum"] - row["ok_sum"]
            worker.device_s += row["device_s_sum"]

    def _add_classes(self, good: pa.Table) -> None:
        columns = [good[name].to_numpy() for name in ("width", "height", "steps")]
        rows_of = defaultdict(list)
        for row, key in enumerate(zip(*columns, strict=True)):
            rows_of[key].append(row)
        skipped = good["skipped"].combine_chunks()
        for key, rows in rows_of.items():
            width, height, steps = (int(value) for value in key)
            name = width, height, steps
            one = self._classes.setdefault(
                name, SizeClass(*name, computed=np.zeros(steps, np.int64))
            )
            one.pictures += len(rows)
            one.computed += len(rows) - _skipped(skipped.take(pa.array(rows)), steps)

    def _add_audited(self, shard: int, good: pa.Table) -> None:
        audited = good.filter(pc.is_valid(good["psnr"])).select(["psnr", "index"]).to_pylist()
        found = [Audited(row["psnr"], shard, row["index"]) for row in audited]
        self._worst = heapq.nsmallest(
            WORST, [*self._worst, *found], lambda one: (one.psnr_db, one.index)
        )

    def numbers(self, statistics: Statistics) -> Numbers:
        numbers = Numbers(statistics)
        if not self._workers:
            return numbers
        numbers.began_at, numbers.ended_at = self._began_at, self._ended_at
        numbers.workers = sorted(
            self._workers.values(),
            key=lambda one: (-one.ok / (one.device_s or 1.0), one.host, one.worker),
        )
        numbers.classes = sorted(
            self._classes.values(),
            key=lambda one: (-one.pictures, one.width, one.height, one.steps),
        )
        numbers.moments, numbers.moment_s = self._timeline.moments(), self._timeline.width_s
        numbers.worst = self._worst
        return numbers


def _skipped(letters: pa.StringArray, steps: int) -> npt.NDArray[np.int64]:
    """How many pictures skipped each step.

    :param letters: `skipped` of pictures of so many steps; without a cache it is empty.
    """
    padded = pc.utf8_rpad(letters, steps, "0").to_pylist()
    cells = np.frombuffer("".join(padded).encode(), np.uint8).reshape(-1, steps)
    skipped: npt.NDArray[np.int64] = (cells == ord("1")).sum(axis=0)
    return skipped
