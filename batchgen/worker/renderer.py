"""Make one group with the engine: together, and where that fails, in halves or one by one.

A picture that cannot be made costs one record, never its group. There are two kinds of failures:

- Making the group *raises*. If denoising runs out of memory, the group is halved. After any other
  exception, and whenever decoding raises, each picture is made once more, alone.
- A picture *turns out bad*: it holds NaN or is all one colour. This picture is made once more,
  alone.

After a `DeviceFault` nothing may be computed in this process. In a replica of several ranks every
exception is a device fault; the next process does what is done here at once, because of the
verdict (shard/escalation.py).
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from batchgen.engine import Denoised, Engine, Trace
from batchgen.errors import DeviceFault, OutOfMemory
from batchgen.manifest import Picture
from batchgen.shard import Route
from batchgen.worker.audit import NOT_AUDITED, Audited

Size = tuple[int, int]  # width and height in px

_TURNED_OUT_BAD = {
    "not finite": "the latents hold NaN or infinity",
    "one colour": "every pixel has the same colour",
}


@dataclass(frozen=True, slots=True)
class Part:
    """Pictures that were denoised together, or the reason why they were not."""

    pictures: Sequence[Picture]
    denoised: Denoised | None
    path: Route
    cause: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Made:
    """What became of one picture: pixels [H, W, 3], or the reason why there are none.

    Times are seconds, of the whole part.
    """

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
    audited: Audited = NOT_AUDITED


@dataclass
class Renderer:
    """An engine, and how many pictures of each size fit its device together.

    `denoise` is called by the main thread and `decode` by the writing thread, which may denoise
    again.
    """

    engine: Engine
    fits: dict[Size, int] = field(default_factory=dict)
    _denoising: threading.Lock = field(default_factory=threading.Lock)

    def denoise(self, pictures: Sequence[Picture], path: Route = "normal") -> list[Part]:
        """Denoise a group.

        :return: its parts, in order; one part if nothing went wrong.
        :raises DeviceFault: the process must end.
        """
        size = (pictures[0].width, pictures[0].height)
        limit = self.fits.get(size, len(pictures))
        if len(pictures) > limit:
            starts = range(0, len(pictures), limit)
            parts = [self.denoise(pictures[at : at + limit], "oom_split") for at in starts]
            return [part for some in parts for part in some]
        try:
            with self._denoising:
                return [Part(pictures, self.engine.denoise(pictures), path)]
        except OutOfMemory as error:
            if len(pictures) == 1:
                return [Part(pictures, None, path, "out of memory", str(error))]
            self.learn([(size, len(pictures))])
            return self.denoise(pictures, "oom_split")
        except DeviceFault:
            raise
        except Exception as error:  # noqa: BLE001 - whatever is raised costs a picture, not the run
            if path == "retry":
                return [Part(pictures, None, path, "exception", _message(error))]
        return [part for picture in pictures for part in self.denoise([picture], "retry")]

    def denoise_uncached(self, pictures: Sequence[Picture]) -> Denoised:
        """Denoise pictures of a group without the cache. It raises what the engine raises."""
        with self._denoising:
            return self.engine.denoise(pictures, cached=False)

    def learn(self, too_many: Iterable[tuple[Size, int]]) -> None:
        """Make at most half as many pictures of these sizes together from now on."""
        for size, count in too_many:
            self.fits[size] = min(self.fits.get(size, count), (count + 1) // 2)

    def decode(self, part: Part) -> list[Made]:
        """Pixels of a part, in order. Pictures that turn out bad are made once more, alone."""
        made = self._decode(part)
        if part.path == "retry":
            return made
        return [self._again(one.picture) if one.cause in _TURNED_OUT_BAD else one for one in made]

    def _again(self, picture: Picture) -> Made:
        (part,) = self.denoise([picture], "retry")
        return self._decode(part)[0]

    def _decode(self, part: Part) -> list[Made]:
        if part.denoised is None:
            return [_failed(part, picture, part.cause, part.error) for picture in part.pictures]
        try:
            pixels, decode_s = self.engine.decode(part.denoised)
        except DeviceFault:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            if part.path == "retry":
                cause = "out of memory" if isinstance(error, OutOfMemory) else "exception"
                return [_failed(part, part.pictures[0], cause, _message(error))]
            return [self._again(picture) for picture in part.pictures]
        return _judged(part, part.denoised, pixels, decode_s)


def _failed(part: Part, picture: Picture, cause: str, error: str) -> Made:
    return Made(picture, None, part.path, len(part.pictures), cause, error)


def _judged(
    part: Part, denoised: Denoised, pixels: npt.NDArray[np.uint8], decode_s: float
) -> list[Made]:
    """The pictures of a part, those that turned out bad without their pixels."""
    traces = denoised.traces or [None] * len(part.pictures)
    made = []
    for picture, image, finite, trace in zip(
        part.pictures, pixels, denoised.finite, traces, strict=True
    ):
        cause = _fault(image, finite=finite)
        one = Made(
            picture,
            None if cause else image,
            part.path,
            len(part.pictures),
            cause=cause,
            error=_TURNED_OUT_BAD.get(cause, ""),
            text_s=denoised.text_s,
            denoise_s=denoised.denoise_s,
            decode_s=decode_s,
            peak_bytes=denoised.peak_bytes,
            trace=trace,
        )
        made.append(one)
    return made


def _fault(pixels: npt.NDArray[np.uint8], *, finite: bool) -> str:
    if not finite:
        return "not finite"
    return "one colour" if bool((pixels == pixels[0, 0]).all()) else ""


def _message(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})"[:2000]
