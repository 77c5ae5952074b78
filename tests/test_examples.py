"""The examples read what the ready manifest asks for."""

from pathlib import Path

import pyarrow.parquet as pq

from examples.classifier import COLOURS, SHAPES, labels
from training.scenes import SIZES, scene_of

MANIFEST = Path(__file__).parents[1] / "manifests" / "prompts.parquet"


def test_a_prompt_says_which_colour_and_which_shape_it_asks_for() -> None:
    rows = pq.read_table(MANIFEST, columns=["prompt", "scene_seed"]).to_pylist()
    for row in rows:
        first = scene_of(row["scene_seed"], *SIZES[row["scene_seed"] % len(SIZES)]).things[0]
        colour, shape = labels(row["prompt"])
        assert (COLOURS[colour], SHAPES[shape]) == (first.colour, first.shape)
