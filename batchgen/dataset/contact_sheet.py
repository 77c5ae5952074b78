"""A contact sheet: the first pictures of a run with their prompts, to see at a glance whether it is what was wanted."""

from __future__ import annotations

import io
import tarfile
import textwrap
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PICTURES = 60
COLUMNS = 10
THUMB_PX = 160
LINE_PX = 12
LINES = 3
GAP_PX = 8
LETTERS = 27  # of the font, in a thumbnail's width


def contact_sheet(tars: Sequence[Path], extension: str) -> bytes | None:
    """JPEG of up to 60 pictures; None where there is none."""
    pictures = list(islice(_pictures(tars, extension), PICTURES))
    if not pictures:
        return None
    columns, rows = min(COLUMNS, len(pictures)), -(-len(pictures) // COLUMNS)
    cell_width, cell_height = THUMB_PX + GAP_PX, THUMB_PX + LINES * LINE_PX + GAP_PX
    sheet = Image.new("RGB", (columns * cell_width + GAP_PX, rows * cell_height + GAP_PX), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=LINE_PX - 1)
    for number, (data, prompt) in enumerate(pictures):
        x, y = GAP_PX + number % columns * cell_width, GAP_PX + number // columns * cell_height
        with Image.open(io.BytesIO(data)) as opened:
            thumb = opened.convert("RGB")
        thumb.thumbnail((THUMB_PX, THUMB_PX))
        sheet.paste(thumb, (x + (THUMB_PX - thumb.width) // 2, y + (THUMB_PX - thumb.height) // 2))
        lines = textwrap.wrap(prompt, LETTERS, max_lines=LINES, placeholder="…")
        draw.multiline_text(
            (x, y + THUMB_PX + 2), "\n".join(lines), fill="black", font=font, spacing=1
        )
    buffer = io.BytesIO()
    sheet.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _pictures(tars: Sequence[Path], extension: str) -> Iterator[tuple[bytes, str]]:
    """(image file, prompt) of every sample, in order."""
    for path in tars:
        with tarfile.open(path) as tar:
            image = b""
            for member in tar:
                stream = tar.extractfile(member)
                assert stream is not None, "our tars hold files only"
                if member.name.endswith(f".{extension}"):
                    image = stream.read()
                elif member.name.endswith(".txt"):
                    yield image, stream.read().decode()
