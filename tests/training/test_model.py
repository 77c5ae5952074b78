"""The embedded model makes what its prompts say, and the judge that finds so can be trusted."""

from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from batchgen.model import TINY
from tests.support.scene_judge import Verdict, judge, shares
from training import flow
from training.corpus import Corpus
from training.scenes import FIRST_TRAINING_SEED, SHAPES, SIZES, Scene, Thing, draw, scenes_from
from training.sheet import generate
from training.vocabulary import words

PROMPTS = 100
BARS = {
    "background": 0.95,
    "colour": 0.95,
    "place": 0.95,
    "count": 0.95,
    "shape": 0.85,
    "wholly": 0.75,
}


def single(shape: str, colour: str, background: str, *centres: tuple[int, int]) -> Scene:
    things = tuple(Thing(shape, colour, x, y, 52) for x, y in centres)
    return Scene(128, 128, "alike", background, "", things, "")


ASKED = single("circle", "red", "white", (36, 36), (92, 92))
FAULTS = {
    "background": single("circle", "red", "pink", (36, 36), (92, 92)),
    "colour": single("circle", "orange", "white", (36, 36), (92, 92)),
    "place": single("circle", "red", "white", (92, 36), (36, 92)),
    "count": single("circle", "red", "white", (36, 36), (92, 92), (92, 36)),
    "shape": single("square", "red", "white", (36, 36), (92, 92)),
}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return list(islice(scenes_from(0, held_out=True), PROMPTS))


@pytest.fixture(scope="module")
def drawn(scenes: list[Scene]) -> list[NDArray[np.uint8]]:
    return [draw(scene) for scene in scenes]


@pytest.fixture(scope="module")
def made(scenes: list[Scene]) -> list[NDArray[np.uint8]]:
    return generate(TINY, scenes)


def verdicts(pictures: list[NDArray[np.uint8]], scenes: list[Scene]) -> list[Verdict]:
    return [judge(picture, scene) for picture, scene in zip(pictures, scenes, strict=True)]


def test_held_out_scenes_are_new_in_every_wording_and_size(scenes: list[Scene]) -> None:
    trained_on = {
        scene.content for scene in islice(scenes_from(FIRST_TRAINING_SEED, held_out=False), 5000)
    }
    assert not trained_on & {scene.content for scene in scenes}


def test_every_word_of_a_caption_is_in_the_vocabulary(scenes: list[Scene]) -> None:
    assert {word for scene in scenes for word in scene.caption.split()} <= set(words())


@pytest.mark.slow
def test_the_judge_approves_of_drawn_scenes(
    scenes: list[Scene], drawn: list[NDArray[np.uint8]]
) -> None:
    assert min(shares(verdicts(drawn, scenes)).values()) >= 0.99


@pytest.mark.slow
def test_the_judge_rejects_pictures_of_other_captions(
    scenes: list[Scene], drawn: list[NDArray[np.uint8]]
) -> None:
    # By threes, so that sizes agree; every third picture still has the right count by chance.
    scores = shares(verdicts(drawn[3:] + drawn[:3], scenes))
    assert scores["wholly"] <= 0.02
    assert max(scores[name] for name in ("background", "colour", "place", "shape")) <= 0.3


@pytest.mark.parametrize("prop", list(FAULTS))
def test_the_judge_sees_each_single_fault(prop: str) -> None:
    verdict = judge(draw(FAULTS[prop]), ASKED)
    assert [name for name, right in asdict(verdict).items() if not right] == [prop]


@pytest.mark.slow
def test_the_judge_takes_no_shape_for_another(scenes: list[Scene]) -> None:
    for scene in scenes[:40]:
        for shape in {*SHAPES} - {scene.things[0].shape}:
            shown = replace(
                scene, things=tuple(replace(thing, shape=shape) for thing in scene.things)
            )
            assert not judge(draw(shown), scene).shape


def test_the_judge_sees_nothing_in_noise(scenes: list[Scene]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    assert not any(judge(noise, scene).wholly for scene in scenes[:20])


@pytest.mark.slow
def test_diffusers_own_flux_makes_what_held_out_prompts_say(
    scenes: list[Scene], made: list[NDArray[np.uint8]]
) -> None:
    scores = shares(verdicts(made, scenes))
    assert {name: score for name, score in scores.items() if score < BARS[name]} == {}, scores


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_made(
    size: tuple[int, int], scenes: list[Scene], made: list[NDArray[np.uint8]]
) -> None:
    judged = [
        judge(picture, scene)
        for picture, scene in zip(made, scenes, strict=True)
        if (scene.width, scene.height) == size
    ]
    assert len(judged) > PROMPTS / 4
    assert shares(judged)["wholly"] >= BARS["wholly"] - 0.1


def test_the_folder_stays_under_ten_megabytes() -> None:
    assert sum(path.stat().st_size for path in TINY.rglob("*") if path.is_file()) <= 10_000_000


@pytest.mark.slow
def test_training_goes_on_from_the_delivered_weights(tmp_path: Path) -> None:
    """The first loss is a trained model's, and every part gets a gradient."""
    torch.manual_seed(0)
    model = flow.FlowModel()
    corpus = Corpus(flow.load(model, TINY), FIRST_TRAINING_SEED, 40, tmp_path)
    flow.halve_linears(model)
    value = flow.loss(model, corpus.batch(SIZES[1], 16, flow.TEXT_TOKENS))
    value.backward()
    assert float(value.detach()) < 0.1
    assert all(
        p.grad.abs().sum() > 0
        for p in (model.clip.get_input_embeddings().weight, model.t5.shared.weight)
    )
