"""An engine without torch that draws a test card for each prompt, for rehearsals and tests.

A card shows colour bars from a hash of everything that decides the picture, and its key, settings
and prompt in words. Cards of different rows differ, the same row gives the same bytes everywhere,
and nobody takes a card for a generated picture.
"""

from __future__ import annotations

import hashlib
import textwrap
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from batchgen.engine.interface import Compilation, Denoised, Scored
from batchgen.manifest import Picture

_BARS = 8
# Cards are drawn with a shorter side of this many pixels or a little more, and enlarged by whole
# pixels, so that the words stay readable.
_BASE_PX = 128
_FONT = ImageFont.load_default_imagefont()
# Of that font, a bitmap.
_LETTER_WIDTH_PX, _LETTER_HEIGHT_PX = 6, 11
_MARGIN_PX = 4


class PatternEngine:
    """Test cards at a settable pace; fulfils `Engine`."""

    identity = "pattern"
    compilation = Compilation()

    def __init__(self, delay_s: float = 0.0) -> None:
        """:param delay_s: seconds that denoising a group takes."""
        self._delay_s = delay_s

    def denoise(self, group: Sequence[Picture], *, cached: bool = True) -> Denoised:  # noqa: ARG002
        """Wait. The pictures themselves stand for their latents; no cache changes a card."""
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
        """Cards, uint8 [B, height, width, 3], RGB, and the seconds that drawing took."""
        begin = time.perf_counter()
        cards = np.stack([draw_card(picture) for picture in denoised.latents])
        return cards, time.perf_counter() - begin

    def score(
        self,
        pixels: Sequence[npt.NDArray[np.uint8]],
        prompts: Sequence[str],  # noqa: ARG002
    ) -> list[Scored]:
        """No scores: a test card says nothing about a model."""
        return [Scored(None)] * len(pixels)

    def close(self) -> None:
        """See `Engine.close`."""


def draw_card(picture: Picture) -> npt.NDArray[np.uint8]:
    """One test card, uint8 [height, width, 3], RGB; the same on every machine."""
    zoom = max(1, min(picture.width, picture.height) // _BASE_PX)
    width, height = picture.width // zoom, picture.height // zoom
    card = Image.fromarray(_bars(picture, width, height))
    columns = max(1, (width - 4 * _MARGIN_PX) // _LETTER_WIDTH_PX)
    rows = (height - 4 * _MARGIN_PX) // _LETTER_HEIGHT_PX
    settings = f"seed {picture.seed} steps {picture.steps} guidance {picture.guidance:g}"
    lines = [f"TEST CARD {picture.key:09d}"]
    lines += textwrap.wrap(settings, columns) + textwrap.wrap(picture.prompt, columns)
    _write(card, lines[:rows])
    return np.asarray(card.resize((picture.width, picture.height), Image.Resampling.NEAREST))


def _write(card: Image.Image, lines: Sequence[str]) -> None:
    """Write lines in a white box at the top."""
    if not lines:
        return
    draw, inner = ImageDraw.Draw(card), 2 * _MARGIN_PX
    bottom = 3 * _MARGIN_PX + len(lines) * _LETTER_HEIGHT_PX
    box = (_MARGIN_PX, _MARGIN_PX, card.width - _MARGIN_PX, bottom)
    draw.rectangle(box, fill="white", outline="black")
    for number, line in enumerate(lines):
        # The font knows no other letters than latin-1's.
        letters = line.encode("latin-1", "replace")
        draw.text((inner, inner + number * _LETTER_HEIGHT_PX), letters, fill="black", font=_FONT)


def _bars(picture: Picture, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Vertical bars, uint8 [height, width, 3], in colours hashed from what decides the picture."""
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
