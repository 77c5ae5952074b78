"""A torch-free engine that draws a test card for each prompt: rehearsals and protocol tests.

Colour bars from a hash of everything that decides a picture, and its key, settings and prompt in words: cards of different rows differ,
the same row gives the same bytes everywhere, and nobody takes one for a painting.
"""

from __future__ import annotations

import hashlib
import textwrap
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from batchgen.engine.interface import Compilation, Denoised
from batchgen.manifest import Picture

_BARS = 8
_BASE_PX = 128  # cards are drawn with their shorter side at least this long, and enlarged by whole pixels: the words stay readable
_LETTER_PX = (6, 11)  # of Pillow's built-in bitmap font
_MARGIN_PX = 4


class PatternEngine:
    """Test cards at a settable pace; fulfils `Engine`."""

    identity = "pattern"
    compilation = Compilation()

    def __init__(self, delay_s: float = 0.0) -> None:
        self._delay_s = delay_s

    def denoise(self, group: Sequence[Picture]) -> Denoised:
        """Wait `delay_s`; the pictures themselves stand for their latents."""
        begin = time.perf_counter()
        time.sleep(self._delay_s)
        return Denoised(
            latents=tuple(group),
            finite=(True,) * len(group),
            width=group[0].width,
            height=group[0].height,
            text_s=0.0,
            denoise_s=time.perf_counter() - begin,
            peak_bytes=0,
        )

    def decode(self, denoised: Denoised) -> tuple[npt.NDArray[np.uint8], float]:
        """Cards, uint8 [B, height, width, 3], RGB, and the seconds drawing took."""
        begin = time.perf_counter()
        cards = np.stack([draw_card(picture) for picture in denoised.latents])
        return cards, time.perf_counter() - begin

    def close(self) -> None:
        """See `Engine.close`."""


def draw_card(picture: Picture) -> npt.NDArray[np.uint8]:
    """One test card, uint8 [height, width, 3], RGB; the same on every machine."""
    zoom = max(1, min(picture.width, picture.height) // _BASE_PX)
    width, height = picture.width // zoom, picture.height // zoom
    card = Image.fromarray(_bars(picture, width, height))
    draw = ImageDraw.Draw(card)
    columns = max(1, (width - 4 * _MARGIN_PX) // _LETTER_PX[0])
    settings = f"seed {picture.seed} steps {picture.steps} guidance {picture.guidance:g}"
    lines = [
        f"TEST CARD {picture.key:09d}",
        *textwrap.wrap(settings, columns),
        *textwrap.wrap(picture.prompt, columns),
    ]
    lines = lines[: (height - 4 * _MARGIN_PX) // _LETTER_PX[1]]
    box = (_MARGIN_PX, _MARGIN_PX, width - _MARGIN_PX, 3 * _MARGIN_PX + len(lines) * _LETTER_PX[1])
    if lines:
        draw.rectangle(box, fill="white", outline="black")
    for number, line in enumerate(lines):
        words = line.encode("latin-1", "replace")  # the built-in font knows no other letters
        draw.text(
            (2 * _MARGIN_PX, 2 * _MARGIN_PX + number * _LETTER_PX[1]),
            words,
            fill="black",
            font=_FONT,
        )
    return np.asarray(card.resize((picture.width, picture.height), Image.Resampling.NEAREST))


def _bars(picture: Picture, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Vertical bars [height, width, 3] in colours hashed from what decides the picture."""
    decisive = (
        picture.prompt,
        picture.negative_prompt,
        picture.seed,
        picture.width,
        picture.height,
        picture.steps,
        float(picture.guidance),
        float(picture.true_cfg),
    )
    hashed = hashlib.sha256(repr(decisive).encode()).digest()[: 3 * _BARS]
    colours = np.frombuffer(hashed, np.uint8).reshape(_BARS, 3)
    return np.broadcast_to(colours[np.arange(width) * _BARS // width], (height, width, 3)).copy()


_FONT = ImageFont.load_default_imagefont()
