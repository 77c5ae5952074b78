"""Judges whether a picture shows its scene (`training.scenes`), with numpy alone.

The background is the known colour nearest to that of the picture's rim. Things are the connected
regions that differ from it. Each thing of the scene is compared with the region nearest to where
the thing should be. A property is right only if it is right for every thing of the scene.

Shapes are compared at the size they were asked for. Not judged: shades within one colour's name.
"""

from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from training.scenes import COLOURS, SHAPES, Scene, Thing, draw_mask

# RGB distance from the background that makes a pixel part of a thing.
DIFFERENT = 60.0
# Share of the picture under which a region is no thing.
SPECK = 0.006
# How far from its place the centre of a thing may be, as a share of the shorter side.
NEAR = 0.11
# Overlap with the best drawing under which a region has no shape at all.
ALIKE = 0.7
# Pixels: blunt points move the middle of a region's box.
SHIFTS = (-2, 0, 2)


@dataclass(frozen=True)
class Verdict:
    """What is right about one picture."""

    background: bool
    colour: bool
    place: bool
    count: bool
    shape: bool

    @property
    def wholly(self) -> bool:
        return all(astuple(self))


@dataclass(frozen=True, eq=False)
class Region:
    """A connected patch that is not background."""

    colour: str
    patch: NDArray[np.bool_]
    x: float
    y: float


def judge(picture: NDArray[np.uint8], scene: Scene) -> Verdict:
    background = rim_colour(picture)
    regions = find_regions(picture, background)
    near = NEAR * min(scene.width, scene.height)
    matches = [(thing, nearest(regions, thing)) for thing in scene.things]
    placed = {region for thing, region in matches if region and distance(region, thing) < near}
    return Verdict(
        background=nearest_colour(background) == scene.background,
        colour=all(region and region.colour == thing.colour for thing, region in matches),
        place=len(placed) == len(scene.things),
        count=len(regions) == len(scene.things),
        shape=all(
            region and nearest_shape(region, thing.diameter) == thing.shape
            for thing, region in matches
        ),
    )


def shares(verdicts: Iterable[Verdict]) -> dict[str, float]:
    """The share of pictures that are right, by property and wholly."""
    table = list(verdicts)
    names = ("background", "colour", "place", "count", "shape", "wholly")
    return {name: sum(getattr(v, name) for v in table) / len(table) for name in names}


def rim_colour(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    rims = (picture[:3], picture[-3:], picture[:, :3], picture[:, -3:])
    return np.median(np.concatenate([rim.reshape(-1, 3) for rim in rims]), axis=0)


def nearest_colour(colour: NDArray[np.float64]) -> str:
    return min(COLOURS, key=lambda name: float(np.linalg.norm(colour - COLOURS[name])))


def distance(region: Region, thing: Thing) -> float:
    return float(np.hypot(region.x - thing.x, region.y - thing.y))


def nearest(regions: list[Region], thing: Thing) -> Region | None:
    return min(regions, key=lambda region: distance(region, thing), default=None)


def find_regions(picture: NDArray[np.uint8], background: NDArray[np.float64]) -> list[Region]:
    """Regions larger than a speck, each with its colour and the middle of its box."""
    contrast = np.linalg.norm(picture - background, axis=-1)
    regions = []
    for patch in components(contrast > DIFFERENT):
        if patch.sum() < SPECK * patch.size:
            continue
        inner = patch & (contrast > 0.7 * np.quantile(contrast[patch], 0.9))
        colour = np.median(picture[inner], axis=0)
        solid = patch & (contrast > 0.5 * np.linalg.norm(colour - background))
        regions.append(Region(nearest_colour(colour), solid, *middle(solid)))
    return regions


def components(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The 4-connected parts of a mask: labels flow along runs until nothing changes."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        spread = labels.copy()
        for axis in (0, 1):
            for direction in (1, -1):
                flow(spread, mask, axis, direction)
        if np.array_equal(spread, labels):
            return [labels == label for label in np.unique(labels) if label]
        labels = spread


def flow(labels: NDArray[np.int64], mask: NDArray[np.bool_], axis: int, direction: int) -> None:
    """Carries the larger label from row to row (axis 0) or column to column, in place."""
    lines = np.moveaxis(labels, axis, 0)[::direction]
    open_ = np.moveaxis(mask, axis, 0)[::direction]
    for before, line, cells in zip(lines, lines[1:], open_[1:], strict=False):
        np.maximum(line, before, out=line, where=cells)


def middle(patch: NDArray[np.bool_]) -> tuple[float, float]:
    """The middle of the box around a patch."""
    rows, columns = np.nonzero(patch)
    return float(columns.min() + columns.max() + 1) / 2, float(rows.min() + rows.max() + 1) / 2


def nearest_shape(region: Region, diameter: float) -> str:
    """The shape whose drawing at this place and diameter overlaps best; empty if none does."""
    overlaps = {
        shape: max(overlap(region.patch, drawn) for drawn in drawings(shape, region, diameter))
        for shape in SHAPES
    }
    best = max(overlaps, key=lambda shape: overlaps[shape])
    return best if overlaps[best] >= ALIKE else ""


def drawings(shape: str, region: Region, diameter: float) -> Iterator[NDArray[np.bool_]]:
    """The shape, its box in the middle of the region's, and shifted a little each way."""
    height, width = region.patch.shape
    centred = draw_mask(shape, width / 2, height / 2, diameter, width, height)[..., 0] > 0.5
    x, y = middle(centred)
    for across in SHIFTS:
        for down in SHIFTS:
            yield np.roll(
                centred, (round(region.y - y) + down, round(region.x - x) + across), (0, 1)
            )


def overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Intersection over union."""
    return float((one & other).sum() / (one | other).sum())
