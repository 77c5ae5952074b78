"""Fidelity against speed, as SVG and PNG.

A setting is a line from its worst picture, a disc, to the mean, a ring. The chosen one has a larger
ring. Right of the upright line is quicker than without a cache; below the level line, the floor.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from batchgen.calibration.choice import Floor
from batchgen.calibration.compare import Measured
from batchgen.calibration.shapes import INK, Axis, Circle, Line, Shape, Text, axes, png, svg

WIDTH_PX, HEIGHT_PX = 920, 540
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 70, 30, 50, 60
FLOOR = "#b03030"
COLOURS = ("#1f6fb4", "#d1751a", "#3a8f4d", "#7a4fa3")


def draw_plot(
    plain: Measured,
    families: Sequence[Sequence[Measured]],
    chosen: Measured,
    floor: Floor,
    title: str,
) -> tuple[bytes, bytes]:
    """The plot as an SVG file and as a PNG file.

    :param plain: the run without a cache.
    :param families: what was measured, a list a policy, from careful to bold.
    """
    shapes = list(_shapes(plain, families, chosen, floor, title))
    return svg(shapes, WIDTH_PX, HEIGHT_PX).encode(), png(shapes, WIDTH_PX, HEIGHT_PX)


def _shapes(
    plain: Measured,
    families: Sequence[Sequence[Measured]],
    chosen: Measured,
    floor: Floor,
    title: str,
) -> Iterator[Shape]:
    every = [one for family in families for one in family]
    rates = [plain.pictures_per_device_hour, *(one.pictures_per_device_hour for one in every)]
    decibels = [floor.psnr_db, *(value for one in every for value in one.psnr_db)]
    x = Axis.over(rates, LEFT_PX, WIDTH_PX - RIGHT_PX)
    y = Axis.over(decibels, HEIGHT_PX - BOTTOM_PX, TOP_PX)
    yield from _frame(x, y, title)
    level, upright = y.px(floor.psnr_db), x.px(rates[0])
    yield Line((LEFT_PX, level), (WIDTH_PX - RIGHT_PX, level), FLOOR, 1.5)
    yield Text((LEFT_PX + 6, level - 10), f"floor {floor.psnr_db:g} dB", FLOOR)
    yield Line((upright, TOP_PX), (upright, HEIGHT_PX - BOTTOM_PX), INK)
    yield Text((upright + 6, HEIGHT_PX - BOTTOM_PX - 12), "without a cache", INK)
    for number, family in enumerate(families):
        yield from _family(x, y, family, number, chosen)


def _frame(x: Axis, y: Axis, title: str) -> Iterator[Shape]:
    yield from axes(x, y)
    yield Text((LEFT_PX, 16), title, INK)
    yield Text((LEFT_PX, 34), "PSNR, dB: worst picture (disc) and mean (ring)", INK)
    middle = (LEFT_PX + WIDTH_PX - RIGHT_PX) / 2
    yield Text((middle, HEIGHT_PX - 18), "pictures per device-hour", INK, "middle")


def _family(
    x: Axis, y: Axis, family: Sequence[Measured], number: int, chosen: Measured
) -> Iterator[Shape]:
    """The settings of a policy. Every second policy has its labels below the others'."""
    colour, above = COLOURS[number % len(COLOURS)], number % 2 == 0
    policy, _, _ = family[0].name.partition("-")
    name_px = WIDTH_PX - RIGHT_PX - 110 * number
    yield Text((name_px, 34), policy, colour, "end")
    points = [(x.px(one.pictures_per_device_hour), one) for one in family]
    worst = [(at, y.px(one.psnr_db[1])) for at, one in points]
    yield from (Line(a, b, colour, 1.5) for a, b in pairwise(worst))
    for (at, one), disc in zip(points, worst, strict=True):
        mean = (at, y.px(one.psnr_db[0]))
        yield Line(disc, mean, colour)
        yield Circle(disc, 4.5, colour, filled=True)
        yield Circle(mean, 4, colour, filled=False)
        if one is chosen:
            yield Circle(disc, 9, INK, filled=False)
        _, _, setting = one.name.partition("-")
        beside = (at, mean[1] - 14) if above else (at, disc[1] + 16)
        yield Text(beside, setting, colour, "middle")
