"""Fidelity against speed, as SVG and PNG: drawn from the same few shapes, without a plot library.

A setting is a line from its worst picture, a disc, to the mean, a ring. The chosen one has a larger
ring. Right of the upright line is quicker than without a cache; below the level line, the floor.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont

from batchgen.calibration.choice import Floor
from batchgen.calibration.compare import Measured

WIDTH_PX, HEIGHT_PX = 920, 540
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 70, 30, 50, 60
FONT_PX = 13
# The PNG is drawn larger and scaled down, which smooths its edges.
SCALE = 2
INK, FAINT, FLOOR = "#222222", "#dddddd", "#b03030"
COLOURS = ("#1f6fb4", "#d1751a", "#3a8f4d", "#7a4fa3")


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line between two points, px."""

    begin: tuple[float, float]
    end: tuple[float, float]
    colour: str
    width: float = 1.0


@dataclass(frozen=True, slots=True)
class Circle:
    """A disc, or a ring if it is not filled; px."""

    centre: tuple[float, float]
    radius: float
    colour: str
    filled: bool


@dataclass(frozen=True, slots=True)
class Text:
    """Words beside a point, px: the point is their start, middle or end, on half their height."""

    at: tuple[float, float]
    words: str
    colour: str
    anchor: str = "start"


Shape = Line | Circle | Text
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


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
    return svg(shapes, WIDTH_PX, HEIGHT_PX).encode(), _png(shapes)


@dataclass(frozen=True, slots=True)
class Axis:
    """Values along one side, and the pixels where they stand."""

    low: float
    high: float
    step: float
    begin_px: float
    end_px: float

    @classmethod
    def over(cls, values: Sequence[float], begin_px: float, end_px: float) -> Axis:
        """An axis with round marks that holds all values."""
        spread = max(values) - min(values) or max(abs(values[0]), 1.0)
        rough = spread / 6
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough)
        low = math.floor((min(values) - 0.05 * spread) / step) * step
        high = math.ceil((max(values) + 0.05 * spread) / step) * step
        return cls(low, high, step, begin_px, end_px)

    def px(self, value: float) -> float:
        """Where a value stands."""
        share = (value - self.low) / (self.high - self.low)
        return self.begin_px + share * (self.end_px - self.begin_px)

    def marks(self) -> list[float]:
        """The values that are written at the axis."""
        return [
            self.low + i * self.step for i in range(round((self.high - self.low) / self.step) + 1)
        ]


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
    for mark in x.marks():
        at = x.px(mark)
        yield Line((at, TOP_PX), (at, HEIGHT_PX - BOTTOM_PX), FAINT)
        yield Text((at, HEIGHT_PX - BOTTOM_PX + 14), f"{mark:,.0f}", INK, "middle")
    for mark in y.marks():
        at = y.px(mark)
        yield Line((LEFT_PX, at), (WIDTH_PX - RIGHT_PX, at), FAINT)
        yield Text((LEFT_PX - 8, at), f"{mark:g}", INK, "end")
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


def svg(shapes: Sequence[Shape], width_px: int, height_px: int) -> str:
    """The shapes on white paper, as an SVG file."""
    box, font = f"0 0 {width_px} {height_px}", f'font-family="sans-serif" font-size="{FONT_PX}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" {font}>'
    paper = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([head, paper, *map(_element, shapes), "</svg>\n"])


def _element(shape: Shape) -> str:
    if isinstance(shape, Line):
        (x1, y1), (x2, y2) = shape.begin, shape.end
        place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        return f'<line {place} stroke="{shape.colour}" stroke-width="{shape.width}"/>'
    if isinstance(shape, Circle):
        x, y = shape.centre
        fill = shape.colour if shape.filled else "none"
        style = f'fill="{fill}" stroke="{shape.colour}" stroke-width="1.5"'
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{shape.radius}" {style}/>'
    x, y = shape.at
    style = f'fill="{shape.colour}" text-anchor="{shape.anchor}" dominant-baseline="central"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(shape.words)}</text>'


def _png(shapes: Sequence[Shape]) -> bytes:
    image = Image.new("RGB", (WIDTH_PX * SCALE, HEIGHT_PX * SCALE), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=FONT_PX * SCALE)
    for shape in shapes:
        _draw(draw, font, shape)
    buffer = io.BytesIO()
    image.resize((WIDTH_PX, HEIGHT_PX), Image.Resampling.LANCZOS).save(buffer, "PNG")
    return buffer.getvalue()


def _draw(draw: ImageDraw.ImageDraw, font: Font, shape: Shape) -> None:
    if isinstance(shape, Line):
        ends = [value * SCALE for point in (shape.begin, shape.end) for value in point]
        draw.line(ends, fill=shape.colour, width=round(shape.width * SCALE))
    elif isinstance(shape, Circle):
        (x, y), radius = shape.centre, shape.radius
        box = [value * SCALE for value in (x - radius, y - radius, x + radius, y + radius)]
        fill = shape.colour if shape.filled else None
        draw.ellipse(box, fill=fill, outline=shape.colour, width=round(1.5 * SCALE))
    else:
        at = shape.at[0] * SCALE, shape.at[1] * SCALE
        anchor = {"start": "lm", "middle": "mm", "end": "rm"}[shape.anchor]
        draw.text(at, shape.words, fill=shape.colour, font=font, anchor=anchor)
