"""One group through the engine: together, and where that fails, in halves or one by one.

A picture that cannot be made costs one record, never the group. Two kinds of failure are told apart:

- *raised*: denoising the group threw. Out of memory halves the group; anything else makes each picture once more, alone.
- *turned out bad*: a picture holds NaN or is all one colour. It alone is made once more.

A `DeviceFault` passes through: nothing may be computed in this process any more. Of a replica of several ranks every exception is one;
what follows here at once, the next process does by its verdict (`tasks.py`).
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from batchgen.engine.interface import Denoised, Engine, Trace
from batchgen.errors import DeviceFault, OutOfMemory
from batchgen.manifest import Picture
from batchgen.shard import Route


@dataclass(frozen=True, slots=True)
class Part:
    """Pictures that went through denoising together, or the reason why one did not."""

    pictures: Sequence[Picture]
    denoised: Denoised | None
    path: Route
    cause: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Made:
    """What became of one picture: pixels [H, W, 3], or the reason why there are none. Times are its part's, in seconds."""

    picture: Picture
    pixels: npt.NDArray[np.uint8] | None
    path: Route
    group_size: int
    cause: str = ""
    error: str = ""
    text_s: float = 0.0
    denoise_s: float = 0.0
    decode_s: float = 0.0
    peak_bytes: int = 0
    trace: Trace | None = None


@dataclass
class Renderer:
    """An engine and what was learned about it: how many pictures of a size fit at once.

    `denoise` is called by the worker's main thread, `decode` by its writing thread; retries in the latter take the device's turn.
    """

    engine: Engine
    turn: threading.Lock = field(default_factory=threading.Lock)
    fits: dict[tuple[int, int], int] = field(default_factory=dict)

    def denoise(self, pictures: Sequence[Picture], path: Route = "normal") -> list[Part]:
        """The group as parts, in order; one part where nothing went wrong.

        :raises DeviceFault: the process must end.
        """
        size = (pictures[0].width, pictures[0].height)
        limit = self.fits.get(size, len(pictures))
        if len(pictures) > limit:
            return [
                part
                for half in _pieces(pictures, limit)
                for part in self.denoise(half, "oom_split")
            ]
        try:
            with self.turn:
                return [Part(pictures, self.engine.denoise(pictures), path)]
        except OutOfMemory as error:
            if len(pictures) == 1:
                return [Part(pictures, None, path, "out of memory", str(error))]
            self.learn([(size, len(pictures))])
            return self.denoise(pictures, "oom_split")
        except DeviceFault:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a picture raises costs that picture, not the run
            if path == "retry":
                return [Part(pictures, None, path, "exception", _told(error))]
        return [part for picture in pictures for part in self.denoise([picture], "retry")]

    def learn(self, too_many: Iterable[tuple[tuple[int, int], int]]) -> None:
        """From now on, of each of these sizes (width, height) at most half so many pictures together."""
        for size, count in too_many:
            self.fits[size] = min(self.fits.get(size, count), (count + 1) // 2)

    def decode(self, part: Part) -> list[Made]:
        """Pixels of a part, in order. A picture that turned out bad has been made once more, alone."""
        made = self._decode(part)
        return [
            self._again(one) if one.cause in _TURNED_OUT_BAD and part.path != "retry" else one
            for one in made
        ]

    def _again(self, bad: Made) -> Made:
        (part,) = self.denoise([bad.picture], "retry")
        return self._decode(part)[0]

    def _decode(self, part: Part) -> list[Made]:
        size = len(part.pictures)
        if part.denoised is None:
            return [
                Made(picture, None, part.path, size, part.cause, part.error)
                for picture in part.pictures
            ]
        denoised = part.denoised
        try:
            pixels, decode_s = self.engine.decode(denoised)
        except DeviceFault:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            if part.path == "retry":
                return [Made(part.pictures[0], None, part.path, 1, "exception", _told(error))]
            return [self._again(Made(picture, None, "retry", 1)) for picture in part.pictures]
        made = []
        shared: dict[str, Any] = {
            "text_s": denoised.text_s,
            "denoise_s": denoised.denoise_s,
            "decode_s": decode_s,
            "peak_bytes": denoised.peak_bytes,
        }
        for picture, image, finite, trace in zip(
            part.pictures, pixels, denoised.finite, denoised.traces or [None] * size, strict=True
        ):
            cause = _judge(image, finite=finite)
            kept = None if cause else image
            made.append(
                Made(
                    picture,
                    kept,
                    part.path,
                    size,
                    cause,
                    _TURNED_OUT_BAD.get(cause, ""),
                    **shared,
                    trace=trace,
                )
            )
        return made


_TURNED_OUT_BAD = {
    "not finite": "the latents hold NaN or infinity",
    "one colour": "every pixel has the same colour",
}


def _judge(pixels: npt.NDArray[np.uint8], *, finite: bool) -> str:
    if not finite:
        return "not finite"
    return "one colour" if bool((pixels == pixels[0, 0]).all()) else ""


def _pieces(pictures: Sequence[Picture], size: int) -> list[Sequence[Picture]]:
    return [pictures[at : at + size] for at in range(0, len(pictures), size)]


def _told(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})"[:2000]
