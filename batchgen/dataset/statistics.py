"""Statistics of a finished run, from `metadata/*.parquet` alone: anyone can recompute them (P8).

Counts and means are exact. Quantiles are exact for up to 100,000 good pictures. For more, they
come from a histogram of fixed size, and their relative error is at most half a percent. Memory is
bounded: the times of 100,000 pictures, and some thousands of records.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from batchgen.dataset.scores import COLUMNS as SCORE_COLUMNS
from batchgen.dataset.scores import Scores, count_scores
from batchgen.run import RunDirectory
from batchgen.shard import Done, Loss, Superseded

STAGES = ("group_text_s", "group_denoise_s", "group_decode_s", "image_encode_s", "total_s")
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
EXACT_PICTURES = 100_000
# The relative error of a quantile from the histogram, and the times in seconds that its bins cover.
ERROR = 0.005
LEAST_S, MOST_S = 1e-6, 1e9
GAMMA = (1 + ERROR) / (1 - ERROR)
BINS = math.ceil(math.log(MOST_S / LEAST_S, GAMMA)) + 1


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts over all pictures, and times of the good ones.

    A picture that was made again counts once, as it was made last. Bytes and device-seconds are
    those of all tars and records, also of those that count no more.
    """

    pictures: int
    ok: int
    failed: int
    # How many pictures failed, by cause.
    failures: dict[str, int]
    # Good pictures by size ("128x128") and by path ("normal", "retry", …).
    sizes: dict[str, int]
    paths: dict[str, int]
    tar_bytes: int
    # Seconds of text, denoising and decoding; each group counts once.
    device_s: float
    # Mean, p50, p95 and p99 of each stage: the seconds that a picture's group took.
    seconds: dict[str, dict[str, float]]
    # What audits measured.
    loss: Loss = field(default_factory=Loss)
    # Shares of `[splits]`, and good pictures of each split; empty without splits.
    splits: dict[str, float] = field(default_factory=dict)
    split_pictures: dict[str, int] = field(default_factory=dict)
    # What the scorer said of good pictures.
    scores: Scores = field(default_factory=Scores)
    # Good pictures that were made again: so many samples of the tars count no more.
    again: int = 0


def gather(directory: RunDirectory, done: Sequence[Done]) -> Statistics:
    """Read the records of all committed shards, some records at a time.

    :raises DamagedRun: a shard's records are gone or damaged.
    """
    sizes: Counter[str] = Counter()
    paths: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    times = {stage: Times() for stage in STAGES}
    ok = failed = again = tar_bytes = 0
    device_s, loss = 0.0, Loss()
    columns = ("outcome", "cause", "path", "width", "height", *STAGES)
    superseded = Superseded(directory)
    for one in done:
        loss = loss.plus(one.loss)
        good_before = ok
        tar_bytes, device_s = tar_bytes + one.tar_bytes, device_s + one.group_s
        for table in superseded.current(one.shard, columns):
            failures.update(cause for cause in table["cause"].to_pylist() if cause)
            good = table.filter(pc.equal(table["outcome"], "ok"))
            ok, failed = ok + good.num_rows, failed + table.num_rows - good.num_rows
            sides = (good["width"].to_pylist(), good["height"].to_pylist())
            sizes.update(f"{width}x{height}" for width, height in zip(*sides, strict=True))
            paths.update(good["path"].to_pylist())
            for stage in STAGES:
                times[stage].add(good[stage].to_numpy())
        again += one.ok - (ok - good_before)
    return Statistics(
        pictures=ok + failed,
        ok=ok,
        failed=failed,
        failures=dict(failures),
        sizes=dict(sizes),
        paths=dict(paths),
        tar_bytes=tar_bytes,
        device_s=device_s,
        seconds={stage: one.summary() for stage, one in times.items()},
        loss=loss,
        scores=count_scores(
            table for one in done for table in superseded.current(one.shard, SCORE_COLUMNS)
        ),
        again=again,
    )


@dataclass
class Times:
    """Times in seconds: all of them while they are few, then how many fell into each bin.

    The bins are those of DDSketch (Masson, Rim, Lee: "DDSketch", VLDB 2019) over a fixed range:
    bin i holds the times in (γ^(i-1), γ^i] microseconds, where γ = (1 + α) / (1 - α). Its
    estimate 2γ^i / (γ + 1) is off by α of the time at most. Times of less than a microsecond
    count as zero.
    """

    count: int = 0
    _sum: float = 0.0
    _kept: list[npt.NDArray[np.float64]] = field(default_factory=list)
    _bins: npt.NDArray[np.int64] | None = None

    def add(self, seconds: npt.NDArray[np.float64]) -> None:
        """Add times, one a picture."""
        self.count += len(seconds)
        self._sum += float(seconds.sum())
        self._kept.append(seconds)
        if self._bins is None and self.count > EXACT_PICTURES:
            self._bins = np.zeros(BINS, np.int64)
        if self._bins is not None:
            for some in self._kept:
                self._bins += np.bincount(_bin_of(some), minlength=BINS)
            self._kept.clear()

    def summary(self) -> dict[str, float]:
        """Mean, median, 95% and 99% quantile; zeros if there are no times."""
        if not self.count:
            return dict.fromkeys(("mean", *QUANTILES), 0.0)
        if self._bins is not None:
            mean = self._sum / self.count
            quantiles = [self._estimate(share) for share in QUANTILES.values()]
        else:
            seconds = np.concatenate(self._kept)
            mean = float(np.mean(seconds))
            quantiles = np.quantile(seconds, list(QUANTILES.values())).tolist()
        return {"mean": mean, **dict(zip(QUANTILES, quantiles, strict=True))}

    def _estimate(self, quantile: float) -> float:
        """As numpy does it: between the two times whose ranks are next to the quantile's."""
        rank = quantile * (self.count - 1)
        below, above = (self._at_rank(int(edge)) for edge in (math.floor(rank), math.ceil(rank)))
        return below + (above - below) * (rank % 1)

    def _at_rank(self, rank: int) -> float:
        assert self._bins is not None
        number = int(np.searchsorted(np.cumsum(self._bins), rank, side="right"))
        return 2 * GAMMA**number / (GAMMA + 1) * LEAST_S if number else 0.0


def _bin_of(seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    scaled = np.clip(seconds, LEAST_S, MOST_S) / LEAST_S
    return np.ceil(np.log(scaled) / math.log(GAMMA)).astype(np.int64)
