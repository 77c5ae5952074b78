"""The examples read what the ready manifest asks for."""

import random
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from examples import classifier
from examples.classifier import COLOURS, SHAPES, Loader, labels, train
from tests.support.rehearsal import ask
from training.scenes import SIZES, article, scene_of

MANIFEST = Path(__file__).parents[1] / "manifests" / "prompts.parquet"


def test_a_prompt_says_which_colour_and_which_shape_it_asks_for() -> None:
    rows = pq.read_table(MANIFEST, columns=["prompt", "scene_seed"]).to_pylist()
    for row in rows:
        first = scene_of(row["scene_seed"], *SIZES[row["scene_seed"] % len(SIZES)]).things[0]
        colour, shape = labels(row["prompt"])
        assert (COLOURS[colour], SHAPES[shape]) == (first.colour, first.shape)


@pytest.mark.slow
def test_a_classifier_learns_from_a_run_what_the_prompts_kept_from_it_say(tmp_path: Path) -> None:
    """A picture that shows its prompt badly is a miss too; guessing is right in 1 of 9 and of 6."""
    prompts = [
        f"{article(colour)} {shape} on {article(ground)} background"
        for colour, shape, ground in product(COLOURS, SHAPES, COLOURS)
        if colour != ground
    ]
    random.Random(0).shuffle(prompts)
    pq.write_table(pa.table({"prompt": prompts[:240]}), tmp_path / "prompts.parquet")
    settings = ("splits.validation=0.3", "cache.policy=multistep", "cache.tolerance=0.1")
    words = [word for setting in settings for word in ("--set", setting)]
    run = tmp_path / "run"
    assert ask("submit", tmp_path / "prompts.parquet", "--out", run, *words).code == 0
    learnt = train(Loader(run, "train"))
    colours, shapes, pictures = classifier.test(learnt, Loader(run, "validation"))
    assert pictures > 30
    assert min(colours, shapes) >= 0.8
