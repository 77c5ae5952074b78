"""The course of a run: how many pictures were finished in each moment, and how long they took.

A moment is an interval of clock time. Its length is a round number, such that a run has at most
sixty of them. Where it has more than a few, each has twenty pictures on average: pictures are
finished in groups, and shorter moments show little but which of them a group falls into. Moments in
which no picture was finished are not kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchgen.dataset.statistics import Times
from batchgen.run import RunDirectory
from batchgen.shard import Done, moments_s, stream_metadata

MOST, FEW, PICTURES = 60, 6, 20
_MINUTE_S, _HOUR_S, _DAY_S = 60.0, 3600.0, 86400.0
_WIDTHS_S = (
    *(1.0, 2.0, 5.0, 10.0, 15.0, 30.0),
    *(minutes * _MINUTE_S for minutes in (1, 2, 5, 10, 15, 30)),
    *(hours * _HOUR_S for hours in (1, 2, 3, 6, 12)),
    *(days * _DAY_S for days in (1, 2, 7, 30, 90, 365, 3650)),
)


@dataclass(frozen=True, slots=True)
class Moment:
    """Good pictures that were finished in one interval."""

    # Its begin, seconds since the epoch.
    at: float
    pictures: int
    # Quantiles of the seconds from the begin of a picture's group until it was written.
    p50_s: float
    p95_s: float
    p99_s: float


class Timeline:
    """Collects pictures by the moment in which they were finished."""

    def __init__(self, width_s: float) -> None:
        self.width_s = width_s
        self._times: dict[int, Times] = {}

    @classmethod
    def over(cls, directory: RunDirectory, done: Sequence[Done]) -> Timeline:
        """A timeline for these shards."""
        first, last, pictures = float("inf"), float("-inf"), 0
        for one in done:
            for table in stream_metadata(directory.metadata(one.shard), ["finished_at"]):
                ended = moments_s(table)
                first, last = min(first, float(ended.min())), max(last, float(ended.max()))
                pictures += table.num_rows
        return cls(cls.width(first, last, pictures))

    @staticmethod
    def width(first: float, last: float, pictures: int) -> float:
        """The shortest length of a moment such that there are not too many between these times."""
        most = max(FEW, min(MOST, pictures // PICTURES))
        return next((w for w in _WIDTHS_S if last // w - first // w < most), _WIDTHS_S[-1])

    def add(self, finished_at: npt.NDArray[np.float64], total_s: npt.NDArray[np.float64]) -> None:
        """Add pictures, one an element."""
        moments = np.floor(finished_at / self.width_s).astype(np.int64)
        for moment in np.unique(moments).tolist():
            times = self._times.setdefault(moment, Times())
            times.add(total_s[moments == moment])

    def moments(self) -> list[Moment]:
        """All moments with pictures, in order."""
        found = []
        for number, times in sorted(self._times.items()):
            told = times.summary()
            quantiles = told["p50"], told["p95"], told["p99"]
            found.append(Moment(number * self.width_s, times.count, *quantiles))
        return found
