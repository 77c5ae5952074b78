"""Paints held-out prompts and lays them out on one contact sheet.

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

COLUMNS, CELL, CAPTION = 10, 200, 34  # pictures a row; pixels a cell and under it for the words
STEPS, GUIDANCE, TEXT_TOKENS, BATCH = 28, 3.5, 32, 20


def paint(model: Path, scenes: list[Scene], steps: int = STEPS) -> list[NDArray[np.uint8]]:
    """Stock diffusers' pictures of the scenes' captions, each from its own seed, in fp32."""
    pipeline = FluxPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    pictures: dict[int, NDArray[np.uint8]] = {}
    for size in SIZES:
        chosen = [i for i, scene in enumerate(scenes) if (scene.width, scene.height) == size]
        for start in range(0, len(chosen), BATCH):
            group = chosen[start : start + BATCH]
            painted = pipeline(
                [scenes[i].caption for i in group],
                width=size[0],
                height=size[1],
                num_inference_steps=steps,
                guidance_scale=GUIDANCE,
                max_sequence_length=TEXT_TOKENS,
                generator=[torch.Generator().manual_seed(i) for i in group],
                output_type="np",
            ).images
            pictures |= zip(group, np.rint(painted * 255).astype(np.uint8), strict=True)
    return [pictures[i] for i in range(len(scenes))]


def lay_out(scenes: list[Scene], pictures: list[NDArray[np.uint8]]) -> Image.Image:
    """A grid of pictures, each above its caption."""
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
    """The caption on as many lines as the cell's width asks for."""
    lines = [""]
    for word in caption.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > CELL - 8:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def main() -> None:
    """Sixty held-out prompts, as one JPEG."""
    parser = argparse.ArgumentParser(description="Paint the contact sheet of the embedded model.")
    parser.add_argument("--model", type=Path, default=TINY)
    parser.add_argument("--out", type=Path, default=Path("docs/contact-sheet.jpg"))
    options = parser.parse_args()
    scenes = list(islice(scenes_from(0, held_out=True), 60))
    lay_out(scenes, paint(options.model, scenes)).save(options.out, quality=85, optimize=True)


if __name__ == "__main__":
    main()
