"""Write `prompts.parquet` beside this file: 240 pictures for the embedded model.

    python -m manifests.make_prompts

The file has the same bytes every time. Its captions are those of `training.scenes` with seeds below
1000, which training never used. All of these scenes that training left out in every wording and
size are among them and marked `held_out`: a test can tell pictures of prompts that are new to the
model. Rows of one size stand together, because pictures computed together share their size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from training.scenes import SIZES, Scene, scene_of

PICTURES_A_SIZE = 80
SCENE_SEEDS = 1000
# Rows of the first size that have a negative prompt, and a true_cfg that makes it count.
NEGATIVES = 16
TOPICS = {"one": "single", "placed": "place", "alike": "count"}

SCHEMA = pa.schema(
    {
        "prompt": pa.string(),
        "id": pa.string(),
        # Null is the job's default, which is none.
        "negative_prompt": pa.string(),
        # Null is hashed from the run's seed and the id.
        "seed": pa.int64(),
        "width": pa.int16(),
        "height": pa.int16(),
        "guidance": pa.float32(),
        "true_cfg": pa.float32(),
        "images": pa.int8(),
        # The columns from here on travel along.
        "scene_seed": pa.int16(),
        "topic": pa.string(),
        "held_out": pa.bool_(),
    }
)


def table() -> pa.Table:
    """Make the manifest."""
    rows = [row for first, size in enumerate(SIZES) for row in rows_of_size(first, *size)]
    return pa.Table.from_pylist(rows, SCHEMA)


def rows_of_size(first: int, width: int, height: int) -> list[dict[str, Any]]:
    """Make rows of 80 pictures of one size: the held-out scenes first, then others."""
    scenes = {seed: scene_of(seed, width, height) for seed in range(first, SCENE_SEEDS, len(SIZES))}
    rows: list[dict[str, Any]] = []
    missing = PICTURES_A_SIZE
    for seed in sorted(scenes, key=lambda seed: (not scenes[seed].held_out, seed)):
        images = min(3 if len(rows) % 21 == 10 else 2 if len(rows) % 10 == 5 else 1, missing)
        rows.append(row(seed, scenes[seed], images, negative=first == 0 and len(rows) < NEGATIVES))
        missing -= images
        if not missing:
            break
    return rows


def row(seed: int, shown: Scene, images: int, *, negative: bool) -> dict[str, Any]:
    """Make one row; its values are arbitrary, but always the same."""
    other = scene_of(seed + SCENE_SEEDS, shown.width, shown.height).caption
    return {
        "prompt": shown.caption,
        "id": f"scene-{seed:03d}",
        "negative_prompt": other if negative else None,
        "seed": None if seed % 4 == 0 else seed,
        "width": shown.width,
        "height": shown.height,
        "guidance": (3.5, 2.0, 5.0)[seed % 7 % 3],
        "true_cfg": 1.5 if negative else None,
        "images": images,
        "scene_seed": seed,
        "topic": TOPICS[shown.kind],
        "held_out": shown.held_out,
    }


def main() -> None:
    """Write the file, and print how large it is."""
    destination = Path(__file__).with_name("prompts.parquet")
    made = table()
    pq.write_table(made, destination, compression="zstd", store_schema=False)
    pictures = sum(made["images"].to_pylist())
    size = destination.stat().st_size
    print(f"{destination}: {made.num_rows} rows, {pictures} pictures, {size} bytes")


if __name__ == "__main__":
    main()
