"""Lines, circles, words and axes, drawn as SVG or PNG: plots without a plot library."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image, ImageDraw, ImageFont

FONT_PX = 13
# A PNG is drawn larger and scaled down, which smooths its edges.
SCALE = 2
INK, FAINT = "#222222", "#dddddd"


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


def axes(x: Axis, y: Axis) -> Iterator[Shape]:
    """A line for each mark of both axes, and the mark's value beside it."""
    for mark in x.marks():
        at = x.px(mark)
        yield Line((at, y.begin_px), (at, y.end_px), FAINT)
        yield Text((at, y.begin_px + 14), _value(mark), INK, "middle")
    for mark in y.marks():
        at = y.px(mark)
        yield Line((x.begin_px, at), (x.end_px, at), FAINT)
        yield Text((x.begin_px - 8, at), _value(mark), INK, "end")


def _value(mark: float) -> str:
    """`12,000`, `0.3`: without the last digits of a sum of steps."""
    return f"{mark:,.9g}"


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


def png(shapes: Sequence[Shape], width_px: int, height_px: int) -> bytes:
    """The same as a PNG file."""
    image = Image.new("RGB", (width_px * SCALE, height_px * SCALE), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=FONT_PX * SCALE)
    for shape in shapes:
        _draw(draw, font, shape)
    buffer = io.BytesIO()
    image.resize((width_px, height_px), Image.Resampling.LANCZOS).save(buffer, "PNG")
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
