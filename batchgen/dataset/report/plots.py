"""Where the marks of a report's plots stand. The template draws them, as SVG.

Positions are percent of the plot's width from the left, and of its height from the top: a plot is
as wide as the window, and its letters keep their size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from batchgen.dataset.report.moments import Moment
from batchgen.dataset.report.numbers import SizeClass

# Steps are drawn one by one up to so many; then a cell stands for several.
CELLS = 100


@dataclass(frozen=True, slots=True)
class Axis:
    """An upright axis from zero to `top`, a round number."""

    top: float
    marks: Sequence[float]

    @classmethod
    def over(cls, values: Sequence[float]) -> Axis:
        """An axis that holds all values, with three to five marks above zero."""
        highest = max(values, default=0.0) or 1.0
        power = 10.0 ** math.floor(math.log10(highest / 4))
        step = next(power * times for times in (1, 2, 2.5, 5, 10) if 5 * power * times >= highest)
        count = math.ceil(highest / step - 1e-9)
        return cls(count * step, [number * step for number in range(1, count + 1)])

    def y(self, value: float) -> float:
        """Where a value stands."""
        return 100.0 * (1.0 - value / self.top)


@dataclass(frozen=True, slots=True)
class Column:
    """A moment: its place from left to right, and its pictures an hour."""

    x: float
    width: float
    moment: Moment
    per_hour: float


@dataclass(frozen=True, slots=True)
class Course:
    """The course of a run over clock time."""

    # Seconds since the epoch.
    begin: float
    end: float
    columns: Sequence[Column]
    rates: Axis
    seconds: Axis

    @property
    def neighbours(self) -> Sequence[tuple[Column, Column]]:
        """Moments that follow each other without a moment between them."""
        return [
            (one, two) for one, two in pairwise(self.columns) if two.x - one.x < 1.5 * one.width
        ]


def plot_course(moments: Sequence[Moment], moment_s: float) -> Course | None:
    """The run over time; None if it lasted for one moment, which has no course."""
    if len(moments) < 2:
        return None
    begin, end = moments[0].at, moments[-1].at + moment_s
    percent = 100.0 / (end - begin)
    columns = [
        Column((one.at - begin) * percent, moment_s * percent, one, one.pictures / moment_s * 3600)
        for one in moments
    ]
    rates = Axis.over([column.per_hour for column in columns])
    return Course(begin, end, columns, rates, Axis.over([one.p99_s for one in moments]))


@dataclass(frozen=True, slots=True)
class Cell:
    """One or several steps of a class."""

    x: float
    width: float
    # The first and the last step, counted from one.
    first: int
    last: int
    # The share of pictures that computed it; the mean over several steps.
    share: float


def steps_of_a_cell(classes: Sequence[SizeClass]) -> int:
    """How many steps a cell stands for, so that a row has at most a hundred cells."""
    return -(-max((one.steps for one in classes), default=1) // CELLS)


def plot_steps(one: SizeClass, longest: int, size: int) -> list[Cell]:
    """A row of the heat map.

    :param longest: the most steps of any row; it takes the whole width.
    :param size: steps of a cell.
    """
    shares, percent = one.shares, 100.0 / longest
    cells = []
    for first in range(0, one.steps, size):
        some = shares[first : first + size]
        share = sum(some) / len(some)
        x, width = first * percent, len(some) * percent
        cells.append(Cell(x, width, first + 1, first + len(some), share))
    return cells
