"""What the embedded model's pictures show: flat shapes on a flat background, and their captions.

A scene is a background and one to four things of one shape and colour. Its caption fixes the
picture: a word for a place or a count stands for fixed positions, and nothing is random. That is
how a model of two million parameters can follow prompts. Captions that leave the layout open need a
far larger one.

Captions, with `a` standing for `a` or `an`:

- `a red circle on a white background` (in the middle, large)
- `a red circle at the top left of a white background` (nine places)
- `two red circles on a white background` (two, three or four)

and for each of them other wordings: `... on white`, `a white background with ...`, `a picture of
...`.

One scene in sixteen is held out (`Scene.held_out`): training never uses it in any wording or size.
Tests measure with these scenes how the model follows prompts that are new to it.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (210, 30, 45),
    "orange": (247, 127, 15),
    "yellow": (255, 222, 45),
    "green": (40, 160, 70),
    "blue": (30, 90, 220),
    "purple": (140, 45, 170),
    "pink": (255, 150, 195),
    "white": (250, 250, 250),
    "black": (20, 20, 24),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "ring")
PLACES: dict[str, tuple[int, int]] = {
    "middle": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "top": (0, -1),
    "bottom": (0, 1),
    "top left": (-1, -1),
    "top right": (1, -1),
    "bottom left": (-1, 1),
    "bottom right": (1, 1),
}
COUNTS = {2: "two", 3: "three", 4: "four"}
# Width and height of the sizes that the model is trained on.
SIZES = ((128, 128), (192, 128), (128, 192))
FIRST_TRAINING_SEED = 10_000_000
SUPERSAMPLING = 4


@dataclass(frozen=True)
class Thing:
    """One shape: its centre and diameter in pixels."""

    shape: str
    colour: str
    x: float
    y: float
    diameter: float


@dataclass(frozen=True)
class Scene:
    """A background and the things on it."""

    width: int
    height: int
    # `one` (no place is named), `placed`, or `alike` (several things).
    kind: str
    background: str
    # A key of `PLACES`, empty if the kind is not `placed`.
    place: str
    things: tuple[Thing, ...]
    caption: str

    @property
    def content(self) -> tuple[object, ...]:
        """What the scene shows, whatever its wording and size."""
        named = tuple((thing.shape, thing.colour) for thing in self.things)
        return self.background, self.place, named

    @property
    def held_out(self) -> bool:
        """Whether training leaves this scene out, in every wording and size."""
        return zlib.crc32(repr(self.content).encode()) % 16 == 0


def scene_of(seed: int, width: int, height: int) -> Scene:
    """Make the scene of a seed: 20% are of the kind `one`, 45% `placed`, 35% `alike`."""
    rng = random.Random(seed)
    background, colour = rng.sample(list(COLOURS), 2)
    shape = rng.choice(SHAPES)
    kind = rng.choices(("one", "placed", "alike"), (20, 45, 35))[0]
    place = rng.choice(list(PLACES)) if kind == "placed" else ""
    count = rng.choice(list(COUNTS)) if kind == "alike" else 1
    slots = count_slots(count, width, height)
    if kind == "placed" and place != "middle":
        slots = [place_slot(place, width, height)]
    things = tuple(Thing(shape, colour, *slot) for slot in slots)
    return Scene(
        width,
        height,
        kind,
        background,
        place,
        things,
        wording(rng, kind, background, place, things),
    )


def scenes_from(first_seed: int, *, held_out: bool) -> Iterator[Scene]:
    """Make scenes of consecutive seeds, all sizes in turn: the held-out ones, or the others."""
    seed = first_seed
    while True:
        candidate = scene_of(seed, *SIZES[seed % len(SIZES)])
        if candidate.held_out == held_out:
            yield candidate
        seed += 1


def article(word: str) -> str:
    """Put `a` or `an` before the words."""
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def wording(
    rng: random.Random, kind: str, background: str, place: str, things: tuple[Thing, ...]
) -> str:
    """Write a caption: two times in three the plain wording, else another one."""
    first = things[0]
    subject = article(f"{first.colour} {first.shape}")
    if kind == "alike":
        subject = f"{COUNTS[len(things)]} {first.colour} {first.shape}s"
    surface = article(f"{background} background")
    where = f"{'in' if place == 'middle' else 'at'} the {place}"
    plain = f"{subject} {where} of {surface}" if kind == "placed" else f"{subject} on {surface}"
    if kind == "placed":
        subject = f"{subject} {where}"
    paraphrases = (
        f"{subject} on {background}",
        f"{surface} with {subject}",
        f"a picture of {plain}",
    )
    return plain if rng.random() < 2 / 3 else rng.choice(paraphrases)


def place_slot(place: str, width: int, height: int) -> tuple[float, float, float]:
    """Return centre and diameter of a thing at a place, with a margin to the edges."""
    unit = min(width, height) / 128
    across, down = PLACES[place]
    x = width / 2 + across * (width / 2 - 36 * unit)
    y = height / 2 + down * (height / 2 - 36 * unit)
    return x, y, 56 * unit


def count_slots(count: int, width: int, height: int) -> list[tuple[float, float, float]]:
    """Return centres and diameters of one to four things, in a line or on a grid of two by two."""
    unit = min(width, height) / 128
    left, right = width / 2 - 31 * unit, width / 2 + 31 * unit
    top, bottom = height / 2 - 31 * unit, height / 2 + 31 * unit
    if width > height:
        left, right = 0.27 * width, 0.73 * width
    if height > width:
        top, bottom = 0.27 * height, 0.73 * height
    if count == 1:
        return [(width / 2, height / 2, 80 * unit)]
    if count == 2:
        return side_by_side(width, height)
    if count == 3 and width > height:
        return [(width * k / 6, height / 2, 54 * unit) for k in (1, 3, 5)]
    if count == 3 and height > width:
        return [(width / 2, height * k / 6, 54 * unit) for k in (1, 3, 5)]
    lower = [(width / 2, bottom)] if count == 3 else [(left, bottom), (right, bottom)]
    return [(x, y, 52 * unit) for x, y in [(left, top), (right, top), *lower]]


def side_by_side(width: int, height: int) -> list[tuple[float, float, float]]:
    """Return centres and diameters of two things, one above the other in a tall picture."""
    unit = min(width, height) / 128
    if height > width:
        return [(y, x, diameter) for x, y, diameter in side_by_side(height, width)]
    if width == height:
        return [(31 * unit, height / 2, 54 * unit), (width - 31 * unit, height / 2, 54 * unit)]
    return [(width / 4, height / 2, 68 * unit), (width * 3 / 4, height / 2, 68 * unit)]


def draw(scene: Scene) -> NDArray[np.uint8]:
    """Draw a scene, anti-aliased: height × width × RGB."""
    picture = np.empty((scene.height, scene.width, 3), np.float32)
    picture[:] = COLOURS[scene.background]
    for thing in scene.things:
        coverage = draw_mask(
            thing.shape, thing.x, thing.y, thing.diameter, scene.width, scene.height
        )
        picture += coverage * (np.array(COLOURS[thing.colour], np.float32) - picture)
    return np.rint(picture).astype(np.uint8)


@lru_cache(maxsize=4096)
def draw_mask(
    shape: str, x: float, y: float, diameter: float, width: int, height: int
) -> NDArray[np.float32]:
    """Draw how much of each pixel a shape covers, 0 to 1: height × width × 1."""
    scale = SUPERSAMPLING
    canvas = Image.new("L", (width * scale, height * scale))
    pen = ImageDraw.Draw(canvas)
    for outline, ink in outlines_of(shape):
        points = [((x + diameter * u) * scale, (y + diameter * v) * scale) for u, v in outline]
        pen.polygon(points, fill=ink)
    small = canvas.resize((width, height), Image.Resampling.BOX)
    return (np.asarray(small, np.float32) / np.float32(255))[..., None]


def outlines_of(shape: str) -> list[tuple[list[tuple[float, float]], int]]:
    """Return polygons of a shape of diameter 1 about the origin, each with its ink.

    255 draws, 0 erases.
    """
    if shape == "circle":
        return [(polygon(64, 0.5), 255)]
    if shape == "ring":
        return [(polygon(64, 0.52), 255), (polygon(64, 0.27), 0)]
    if shape == "square":
        return [([(-0.44, -0.44), (0.44, -0.44), (0.44, 0.44), (-0.44, 0.44)], 255)]
    if shape == "triangle":
        return [([(0.0, -0.5), (0.54, 0.44), (-0.54, 0.44)], 255)]
    if shape == "star":
        outer, inner = polygon(5, 0.58), polygon(5, 0.24, pi / 5)
        return [([point for pair in zip(outer, inner, strict=True) for point in pair], 255)]
    if shape == "heart":
        return [([heart_point(2 * pi * k / 64) for k in range(64)], 255)]
    raise ValueError(f"unknown shape {shape!r}; there are {', '.join(SHAPES)}")


def polygon(corners: int, radius: float, turn: float = 0.0) -> list[tuple[float, float]]:
    """Return the corners of a regular polygon; the first one points up."""
    angles = [turn + 2 * pi * k / corners for k in range(corners)]
    return [(radius * sin(angle), -radius * cos(angle)) for angle in angles]


def heart_point(angle: float) -> tuple[float, float]:
    """Return a point of the usual heart curve, scaled to diameter 1."""
    across = 16 * sin(angle) ** 3
    up = 13 * cos(angle) - 5 * cos(2 * angle) - 2 * cos(3 * angle) - cos(4 * angle)
    return across / 32, -(up + 2.5) / 32
