"""A contact sheet: pictures from the whole run with their prompts, to be seen at a glance."""

from __future__ import annotations

import io
import tarfile
import textwrap
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from batchgen.dataset.open_picture import open_picture
from batchgen.dataset.spread import spread

PICTURES = 60
COLUMNS = 10
THUMB_PX = 160
GAP_PX = 8
# Below each thumbnail: lines of the prompt, their height, and how many letters fit its width.
LINES = 3
LINE_PX = 12
LETTERS = 27
CELL_PX = (THUMB_PX + GAP_PX, THUMB_PX + LINES * LINE_PX + GAP_PX)


class Tar(NamedTuple):
    """A published tar."""

    path: Path
    pictures: int
    # Keys of samples that count no more, as they stand in the tar; they are left out.
    superseded: Collection[str] = ()


def contact_sheet(tars: Sequence[Tar], extension: str) -> bytes | None:
    """A JPEG of up to 60 pictures, spread evenly over the tars; None if they hold no picture."""
    places = spread([tar.pictures for tar in tars], PICTURES)
    chosen = [_pictures(tars[place], ordinals, extension) for place, ordinals in places]
    pictures = list(chain.from_iterable(chosen))
    if not pictures:
        return None
    columns, rows = min(COLUMNS, len(pictures)), -(-len(pictures) // COLUMNS)
    size = (columns * CELL_PX[0] + GAP_PX, rows * CELL_PX[1] + GAP_PX)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=LINE_PX - 1)
    for number, (data, prompt) in enumerate(pictures):
        x = GAP_PX + number % columns * CELL_PX[0]
        y = GAP_PX + number // columns * CELL_PX[1]
        with open_picture(data) as opened:
            opened.thumbnail((THUMB_PX, THUMB_PX))  # a large JPEG is decoded at a fraction
            thumb = opened.convert("RGB")
        sheet.paste(thumb, (x + (THUMB_PX - thumb.width) // 2, y + (THUMB_PX - thumb.height) // 2))
        lines = "\n".join(textwrap.wrap(prompt, LETTERS, max_lines=LINES, placeholder="…"))
        draw.multiline_text((x, y + THUMB_PX + 2), lines, fill="black", font=font, spacing=1)
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _pictures(one: Tar, ordinals: Sequence[int], extension: str) -> Iterator[tuple[bytes, str]]:
    """The image file and the prompt of some samples, in order."""
    passed = -1
    with tarfile.open(one.path) as tar:
        image = b""
        for member in tar:
            if member.name.partition(".")[0] in one.superseded:
                continue
            if is_image := member.name.endswith(f".{extension}"):
                passed += 1
            if passed not in ordinals or member.name.endswith(".json"):
                continue
            stream = tar.extractfile(member)
            assert stream is not None, "our tars hold files only"
            if is_image:
                image = stream.read()
            else:
                yield image, stream.read().decode()
