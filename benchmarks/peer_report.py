"""What `peers.py` measured, as tables and as a plot.

Speed is told twice: pictures a second by the wall clock, and CPU seconds a picture, which other
work on the machine disturbs least. Ratios are of CPU seconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from batchgen.calibration.shapes import INK, Axis, Circle, Line, Shape, Text, axes, svg
from benchmarks.contenders import Skip

UNCACHED = Skip()
WHO = ("diffusers", "cache-dit", "batchgen")
# Qualities that are compared: at least this PSNR, mean and worst, dB.
FLOORS = ((40.0, 35.0), (44.0, 40.0), (50.0, 43.0), (56.0, 47.0), (60.0, 52.0))

WIDTH_PX, HEIGHT_PX = 860, 500
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 60, 30, 60, 50
COLOURS = {"diffusers": "#3a8f4d", "cache-dit": "#d1751a", "batchgen": "#1f6fb4"}
PALE = {"diffusers": "#a9d4b2", "cache-dit": "#f0c79d", "batchgen": "#a6c8e4"}


@dataclass(frozen=True, slots=True)
class Way:
    """One contender: who, in groups of how many, compiled or eager, with how many threads."""

    who: str
    group: int
    compiled: bool
    threads: int = 1

    def __str__(self) -> str:
        mode = "compiled" if self.compiled else "eager"
        return f"{self.group} | {mode}" + (f", {self.threads} threads" * (self.threads > 1))


@dataclass
class Row:
    """What a contender came to in one setting."""

    way: Way
    skip: Skip
    # Pictures a second by the clock, and CPU seconds a picture, of each counted round.
    rates: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    # The share of the steps.
    skipped: float = 0.0
    # PSNR against the contender's own uncached pictures.
    mean_db: float = 0.0
    worst_db: float = 0.0

    @property
    def rate(self) -> float:
        """Pictures a second, the median round."""
        return statistics.median(self.rates)

    @property
    def cost(self) -> float:
        """CPU seconds a picture, the median round."""
        return statistics.median(self.cpu_s)

    def holds(self, mean_db: float, worst_db: float) -> bool:
        """Whether the pictures are at least so good."""
        return self.mean_db >= mean_db and self.worst_db >= worst_db


def table(rows: Sequence[Row]) -> str:
    """Every setting of everyone; × is against the script: diffusers, eager, one by one."""
    script, names = _script(rows), "| | group | | cache | skipped | PSNR mean / worst, dB "
    lines = [
        names + "| pictures/s (min–max) | CPU s a picture | × |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        quality = "" if row.skip == UNCACHED else f"{row.mean_db:.1f} / {row.worst_db:.1f}"
        rates = f"{row.rate:.2f} ({min(row.rates):.2f}–{max(row.rates):.2f})"
        factor = f"{script.cost / row.cost:.2f}" if script else ""
        lines.append(
            f"| {row.way.who} | {row.way} | {row.skip} | {row.skipped:.0%} | {quality} | {rates} "
            f"| {row.cost:.4f} | {factor} |"
        )
    return "\n".join(lines)


def at_floors(rows: Sequence[Row]) -> str:
    """The quickest setting of everyone whose pictures are good enough, pictures a CPU second."""
    script, names = _script(rows), "| at least, dB | group | | diffusers | cache-dit | batchgen "
    lines = [names + "| × the better peer | × the script |", "|---|---|---|---|---|---|---|---|"]
    for way in _ways(rows):
        for floor in FLOORS:
            best = {who: _quickest(rows, who, way, *floor) for who in WHO}
            ours, *theirs = best["batchgen"], best["diffusers"], best["cache-dit"]
            peers = [row.cost for row in theirs if row]
            cells = " | ".join(_told(best[who]) for who in WHO)
            ahead = f"{min(peers) / ours.cost:.2f}" if ours and peers else ""
            factor = f"{script.cost / ours.cost:.2f}" if ours and script else ""
            lines.append(f"| {floor[0]:g} / {floor[1]:g} | {way} | {cells} | {ahead} | {factor} |")
    return "\n".join(lines)


def at_equal_quality(rows: Sequence[Row]) -> str:
    """Against each of the peers' best settings: batchgen's quickest that is no worse."""
    each = "PSNR mean / worst, dB | CPU s |"
    lines = [
        f"| | group | | cache | {each} batchgen | {each} × |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for way in _ways(rows):
        for who in WHO[:-1]:
            for row in front(_settings(rows, who, way)):
                ours = _quickest(rows, "batchgen", way, row.mean_db, row.worst_db)
                told = "none is good enough | | | "
                if ours:
                    quality = f"{ours.mean_db:.1f} / {ours.worst_db:.1f}"
                    ahead = row.cost / ours.cost
                    told = f"{ours.skip} | {quality} | {ours.cost:.4f} | {ahead:.2f}"
                quality = f"{row.mean_db:.1f} / {row.worst_db:.1f}"
                lines.append(
                    f"| {who} | {way} | {row.skip} | {quality} | {row.cost:.4f} | {told} |"
                )
    return "\n".join(lines)


def front(rows: Sequence[Row]) -> list[Row]:
    """The settings that no other beats in both mean PSNR and speed, from the best pictures down."""
    best: list[Row] = []
    for row in sorted(rows, key=lambda row: (-row.mean_db, row.cost)):
        if not best or row.cost < best[-1].cost:
            best.append(row)
    return best


def plot(rows: Sequence[Row]) -> str:
    """Quality against speed as SVG: a line along each contender's best settings, eager.

    Those in the largest groups are drawn: a disc for a setting's mean PSNR, and a pale ring for its
    worst picture.
    """
    largest = max(row.way.group for row in rows)
    way = Way("", largest, compiled=False)
    lines = {who: front(_settings(rows, who, way)) for who in WHO}
    every = [row for line in lines.values() for row in line]
    decibels = [value for row in every for value in (row.mean_db, row.worst_db)]
    x = Axis.over(decibels, LEFT_PX, WIDTH_PX - RIGHT_PX)
    speeds = [0.0, *(1 / row.cost for row in every)]
    y = replace(Axis.over(speeds, HEIGHT_PX - BOTTOM_PX, TOP_PX), low=0.0)
    shapes = [*_frame(x, y, largest)]
    for number, (who, line) in enumerate(lines.items()):
        shapes += _line(x, y, who, line, number)
    return svg(shapes, WIDTH_PX, HEIGHT_PX)


def _frame(x: Axis, y: Axis, group: int) -> Iterator[Shape]:
    yield from axes(x, y)
    words = f"pictures per CPU second: the best settings of each, groups of {group}, eager"
    yield Text((LEFT_PX, 18), words, INK)
    yield Text((LEFT_PX, 40), "disc: mean of the pictures · ring: the worst of them", INK)
    middle = (LEFT_PX + WIDTH_PX - RIGHT_PX) / 2
    yield Text((middle, HEIGHT_PX - 14), "PSNR against the same without a cache, dB", INK, "middle")


def _line(x: Axis, y: Axis, who: str, rows: Sequence[Row], number: int) -> Iterator[Shape]:
    """One contender's best settings, and its name in the corner."""
    colour, pale = COLOURS[who], PALE[who]
    corner = (WIDTH_PX - RIGHT_PX - 10, TOP_PX + 16 + 20 * number)
    yield Text(corner, who, colour, "end")
    means = [(x.px(row.mean_db), y.px(1 / row.cost)) for row in rows]
    worst = [(x.px(row.worst_db), y.px(1 / row.cost)) for row in rows]
    yield from (Line(low, mean, pale) for low, mean in zip(worst, means, strict=True))
    yield from (Circle(low, 3.5, pale, filled=False) for low in worst)
    yield from (Line(a, b, colour, 2.0) for a, b in pairwise(means))
    yield from (Circle(mean, 4.5, colour, filled=True) for mean in means)


def _script(rows: Sequence[Row]) -> Row | None:
    """Diffusers, eager, one picture at a time, one thread: what a job array runs on every core."""
    way = Way("diffusers", 1, compiled=False)
    return next((row for row in rows if row.way == way and row.skip == UNCACHED), None)


def _ways(rows: Sequence[Row]) -> list[Way]:
    """What contenders are compared in, without their names."""
    ways = (Way("", row.way.group, row.way.compiled) for row in rows if row.skip != UNCACHED)
    return list(dict.fromkeys(ways))


def _settings(rows: Sequence[Row], who: str, way: Way) -> list[Row]:
    its = Way(who, way.group, way.compiled)
    return [row for row in rows if row.way == its and row.skip != UNCACHED]


def _quickest(
    rows: Sequence[Row], who: str, way: Way, mean_db: float, worst_db: float
) -> Row | None:
    good = [row for row in _settings(rows, who, way) if row.holds(mean_db, worst_db)]
    return min(good, key=lambda row: row.cost, default=None)


def _told(row: Row | None) -> str:
    return f"{row.skip}: {1 / row.cost:.2f}" if row else "none is good enough"
