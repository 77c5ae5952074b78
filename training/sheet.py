"""Make pictures of held-out prompts, and put them on one contact sheet.

python -m training.sheet [--model DIR] [--out docs/contact-sheet.jpg]
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxPipeline
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from batchgen.model import TINY
from training.scenes import SIZES, Scene, scenes_from

# Pictures a row, and pixels of a cell and of the caption under it.
COLUMNS, CELL, CAPTION = 10, 200, 34
STEPS, GUIDANCE, TEXT_TOKENS, BATCH = 28, 3.5, 32, 20


def generate(model: Path, scenes: list[Scene], steps: int = STEPS) -> list[NDArray[np.uint8]]:
    """Make pictures of the scenes' captions with diffusers' own pipeline in fp32.

    A picture's seed is its place in the list.
    """
    pipeline = FluxPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pictures: dict[int, NDArray[np.uint8]] = {}
    for size in SIZES:
        chosen = [i for i, scene in enumerate(scenes) if (scene.width, scene.height) == size]
        for start in range(0, len(chosen), BATCH):
            group = chosen[start : start + BATCH]
            made = pipeline(
                [scenes[i].caption for i in group],
                width=size[0],
                height=size[1],
                num_inference_steps=steps,
                guidance_scale=GUIDANCE,
                max_sequence_length=TEXT_TOKENS,
                generator=[torch.Generator().manual_seed(i) for i in group],
                output_type="np",
            ).images
            pictures |= zip(group, np.rint(made * 255).astype(np.uint8), strict=True)
    return [pictures[i] for i in range(len(scenes))]


def lay_out(scenes: list[Scene], pictures: list[NDArray[np.uint8]]) -> Image.Image:
    """Put the pictures on a grid, each above its caption."""
    rows = -(-len(scenes) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * CELL, rows * (CELL + CAPTION)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for i, (scene, picture) in enumerate(zip(scenes, pictures, strict=True)):
        left, top = i % COLUMNS * CELL, i // COLUMNS * (CELL + CAPTION)
        x, y = left + (CELL - scene.width) // 2, top + CELL - scene.height
        sheet.paste(Image.fromarray(picture), (x, y))
        pen.rectangle((x - 1, y - 1, x + scene.width, y + scene.height), outline=(210, 210, 210))
        words = wrap(scene.caption, font)
        pen.multiline_text(
            (left + CELL / 2, top + CELL + 3), words, "black", font, "ma", align="center"
        )
    return sheet


def wrap(caption: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Break the caption into lines that fit in a cell."""
    lines = [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > CELL - 8:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def main() -> None:
    """Write the sheet of sixty held-out prompts as a JPEG."""
    parser = argparse.ArgumentParser(description="Make the contact sheet of the embedded model.")
    parser.add_argument("--model", type=Path, default=TINY)
    parser.add_argument("--out", type=Path, default=Path("docs/contact-sheet.jpg"))
    options = parser.parse_args()
    scenes = list(islice(scenes_from(0, held_out=True), 60))
    lay_out(scenes, generate(options.model, scenes)).save(options.out, quality=85, optimize=True)


if __name__ == "__main__":
    main()
