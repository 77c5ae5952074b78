"""Which steps the pictures of a class compute: `[[cache.classes]]`, and what a class is.

A *class* is what pictures must share to follow one schedule: about the size, the number of steps,
and whether they have a negative prompt. Sizes are about the same if their numbers of pixels are
nearest to the same power of two: 1152×896 and 1024×1024 px are, 1024×1024 and 512×512 px are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from pydantic import Field, model_validator

from batchgen.settings.section import Section, setting


class PictureClass(NamedTuple):
    """What pictures share that follow one schedule."""

    # The power of two that is nearest to the number of pixels.
    pixels: int
    steps: int
    negative_prompt: bool

    @classmethod
    def of(cls, width: int, height: int, steps: int, *, negative: bool) -> PictureClass:
        """The class of a picture, by its size in px, its steps, and its negative prompt."""
        return cls(2 ** round(math.log2(width * height)), steps, negative)

    def __str__(self) -> str:
        """In words, for messages."""
        side = math.sqrt(self.pixels)
        negative = "with" if self.negative_prompt else "without"
        return f"about {side:.0f}×{side:.0f} px, {self.steps} steps, {negative} negative prompt"


class ClassSchedule(Section):
    """The steps that the pictures of a class compute."""

    pixels: int = Field(description="the power of two nearest to a picture's pixels", ge=1)
    steps: int = Field(description="denoising steps of a picture", ge=1)
    negative_prompt: bool = Field(description="whether the pictures have a negative prompt")
    computed: tuple[int, ...] = Field(
        description="the steps to compute, rising from 0", strict=False, min_length=1
    )
    errors: tuple[float, ...] = setting(
        (),
        "the usual errors of the velocities that are predicted for these steps, but for "
        "the first; multistep compares a picture's own with them",
        strict=False,
    )

    @model_validator(mode="after")
    def _is_possible(self) -> ClassSchedule:
        """Check what no field can say alone."""
        told = f"computed = {list(self.computed)}"
        rising = all(one < other for one, other in pairwise(self.computed))
        if self.computed[0] != 0 or not rising or self.computed[-1] >= self.steps:
            last = self.steps - 1
            raise ValueError(f"{told}: expected 0, and rising steps after it up to {last}")
        if self.pixels & (self.pixels - 1):
            raise ValueError(f"pixels = {self.pixels}: expected a power of two")
        if self.errors and (len(self.errors) != len(self.computed) - 1 or min(self.errors) <= 0):
            expected = f"expected {len(self.computed) - 1} numbers above 0, or none"
            raise ValueError(f"errors = {list(self.errors)}: {expected}")
        return self

    @property
    def of(self) -> PictureClass:
        """The class."""
        return PictureClass(self.pixels, self.steps, self.negative_prompt)

    @property
    def skipped(self) -> list[int]:
        """The steps that are not computed."""
        return sorted({*range(self.steps)} - {*self.computed})


def repeated(classes: Iterable[ClassSchedule]) -> list[PictureClass]:
    """The classes that have more than one schedule."""
    every = [one.of for one in classes]
    return sorted({one for one in every if every.count(one) > 1})
