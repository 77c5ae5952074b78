"""Makes `prompts.parquet` beside this file: 240 pictures of shapes for the embedded model, the same bytes every time.

    python manifests/make_prompts.py

Captions are those of the model's world, scene seeds below 1000: training began far above. All scenes that training left out in
every wording and size are among them and marked `held_out`, so that pictures of prompts new to the model can be told apart.
Rows of one size stand together: shards are contiguous, and groups cannot mix sizes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from training.scenes import SIZES, Scene, scene_of

PICTURES_A_SIZE = 80
SCENE_SEEDS = 1000
NEGATIVES = 16  # rows of the first size with a negative prompt, and true_cfg to use it
TOPICS = {"one": "single", "placed": "place", "alike": "count", "pair": "relation"}

SCHEMA = pa.schema(
    {
        "prompt": pa.string(),
        "id": pa.string(),
        "negative_prompt": pa.string(),  # null: the job's default, none
        "seed": pa.int64(),  # null: hashed from the run's seed and the id
        "width": pa.int16(),
        "height": pa.int16(),
        "guidance": pa.float32(),
        "true_cfg": pa.float32(),
        "images": pa.int8(),
        "scene_seed": pa.int16(),  # from here on columns that travel along
        "topic": pa.string(),
        "held_out": pa.bool_(),
    }
)


def table() -> pa.Table:
    """The manifest."""
    rows = [row for first, size in enumerate(SIZES) for row in rows_of_size(first, *size)]
    return pa.Table.from_pylist(rows, SCHEMA)


def rows_of_size(first: int, width: int, height: int) -> list[dict[str, Any]]:
    """Rows of 80 pictures: every held-out scene whose turn this size is, then others."""
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


def row(seed: int, painted: Scene, images: int, *, negative: bool) -> dict[str, Any]:
    """One row; what its columns vary by is arbitrary, but fixed."""
    return {
        "prompt": painted.caption,
        "id": f"scene-{seed:03d}",
        "negative_prompt": scene_of(seed + SCENE_SEEDS, painted.width, painted.height).caption
        if negative
        else None,
        "seed": None if seed % 4 == 0 else seed,
        "width": painted.width,
        "height": painted.height,
        "guidance": (3.5, 2.0, 5.0)[seed % 7 % 3],
        "true_cfg": 1.5 if negative else None,
        "images": images,
        "scene_seed": seed,
        "topic": TOPICS[painted.kind],
        "held_out": painted.held_out,
    }


def main() -> None:
    """Write the file; small enough to keep in the repository."""
    destination = Path(__file__).with_name("prompts.parquet")
    made = table()
    pq.write_table(made, destination, compression="zstd", store_schema=False)
    pictures = sum(made["images"].to_pylist())
    print(
        f"{destination}: {made.num_rows} rows, {pictures} pictures, {destination.stat().st_size} bytes"
    )


if __name__ == "__main__":
    main()
