"""Scores are those that transformers computes itself, alone or among others."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from batchgen.engine.device import choose_device
from batchgen.engine.interface import Scored
from batchgen.engine.score import Scorer
from batchgen.errors import ModelError
from batchgen.model.score_model import CLASSIFIERS as KNOWN
from batchgen.model.score_model import SIMILARITY, resolve_score_model
from batchgen.settings import EngineSettings
from tests.support.tiny_scorers import CLASSIFIERS, LABELS, save_classifier, save_similarity

PROMPTS = [
    *("a red square", "a blue circle on a very long way to the end of the tokens", "", "green"),
    *(f"a picture {number}" for number in range(7)),
]
# fp32, in batches of another size.
NEAR = 1e-4


def new_pixels(count: int = len(PROMPTS)) -> list[Any]:
    rng = np.random.default_rng(3)
    flat = rng.integers(0, 256, (count, 1, 1, 3))
    return list(np.clip(flat + rng.integers(-60, 60, (count, 48, 64, 3)), 0, 255).astype(np.uint8))


def new_scorer(folder: Path) -> Scorer:
    device = choose_device(EngineSettings(device="cpu"))
    return Scorer(resolve_score_model(str(folder)), device)


def theirs(folder: Path, class_name: str) -> Any:
    """The model and its preparation of one picture, by transformers alone."""
    model = getattr(transformers, class_name).from_pretrained(folder).eval()
    return model, transformers.AutoImageProcessor.from_pretrained(folder)


@pytest.mark.parametrize("class_name", SIMILARITY)
def test_a_similarity_is_transformers_own_logit_of_picture_and_prompt(
    class_name: str, tmp_path: Path
) -> None:
    folder, pixels = save_similarity(tmp_path, class_name), new_pixels()
    model, prepare = theirs(folder, class_name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    expected = []
    with torch.no_grad():
        for one, prompt in zip(pixels, PROMPTS, strict=True):
            tokens = tokenizer(
                [prompt], padding="max_length", max_length=16, truncation=True, return_tensors="pt"
            )
            seen = prepare(images=Image.fromarray(one), return_tensors="pt")
            expected.append(model(**seen, **tokens).logits_per_image.item())
    scores = new_scorer(folder)(pixels, PROMPTS)
    assert [one.value for one in scores] == pytest.approx(expected, rel=NEAR, abs=NEAR)
    assert max(expected) - min(expected) > 100 * NEAR, "all alike: nothing is compared"
    assert not any(one.labels or one.probabilities for one in scores)


def test_a_similarity_of_clip_is_a_hundred_times_the_cosine(tmp_path: Path) -> None:
    folder, pixels = save_similarity(tmp_path), new_pixels(1)
    model, prepare = theirs(folder, "CLIPModel")
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(["green"], return_tensors="pt")
    with torch.no_grad():
        seen = model(**prepare(images=pixels[0], return_tensors="pt"), **tokens)
        model.logit_scale.fill_(math.log(100))
    model.save_pretrained(folder)
    cosine = torch.cosine_similarity(seen.image_embeds, seen.text_embeds).item()
    (scored,) = new_scorer(folder)(pixels, ["green"])
    assert scored.value == pytest.approx(100 * cosine, rel=NEAR)


def test_the_kinds_of_the_tests_are_those_that_are_taken() -> None:
    assert sorted(CLASSIFIERS) == sorted(KNOWN)


@pytest.mark.parametrize(
    "class_name",
    [
        name if name.startswith("ViT") else pytest.param(name, marks=pytest.mark.slow)
        for name in CLASSIFIERS
    ],
)
def test_labels_have_the_probabilities_that_transformers_computes(
    class_name: str, tmp_path: Path
) -> None:
    folder, pixels = save_classifier(tmp_path, class_name), new_pixels()
    model, prepare = theirs(folder, class_name)
    with torch.no_grad():
        rows = [model(**prepare(images=one, return_tensors="pt")).logits[0] for one in pixels]
    scores = new_scorer(folder)(pixels, PROMPTS)
    for scored, logits in zip(scores, rows, strict=True):
        expected = {LABELS[at]: share for at, share in enumerate(logits.softmax(0).tolist())}
        assert dict(zip(scored.labels, scored.probabilities, strict=True)) == pytest.approx(
            expected, abs=NEAR
        )
        assert list(scored.probabilities) == sorted(scored.probabilities, reverse=True)
        assert scored.value == scored.probabilities[0]
    assert len({scored.probabilities for scored in scores}) > 1, "all alike: nothing is compared"


def test_labels_that_exclude_nothing_have_probabilities_of_their_own(tmp_path: Path) -> None:
    save_classifier(tmp_path, problem_type="multi_label_classification")
    model, prepare = theirs(tmp_path, "ViTForImageClassification")
    (pixels,) = new_pixels(1)
    with torch.no_grad():
        logits = model(**prepare(images=pixels, return_tensors="pt")).logits[0]
    (scored,) = new_scorer(tmp_path)([pixels], [""])
    expected = sorted(logits.sigmoid().tolist(), reverse=True)
    assert list(scored.probabilities) == pytest.approx(expected, abs=NEAR)


def test_a_model_of_one_output_gives_its_number(tmp_path: Path) -> None:
    save_classifier(tmp_path, id2label={0: "beauty"}, label2id={"beauty": 0})
    model, prepare = theirs(tmp_path, "ViTForImageClassification")
    (pixels,) = new_pixels(1)
    with torch.no_grad():
        expected = model(**prepare(images=pixels, return_tensors="pt")).logits.item()
    (scored,) = new_scorer(tmp_path)([pixels], [""])
    assert scored.value == pytest.approx(expected, rel=NEAR)
    assert scored == Scored(scored.value)


def test_ten_labels_are_kept(tmp_path: Path) -> None:
    labels = {number: f"label {number}" for number in range(12)}
    save_classifier(tmp_path, id2label=labels, label2id={v: k for k, v in labels.items()})
    (scored,) = new_scorer(tmp_path)(new_pixels(1), [""])
    assert len(scored.labels) == len(scored.probabilities) == 10


@pytest.mark.parametrize("save", [save_similarity, save_classifier])
def test_what_is_not_finite_is_no_score(save: Any, tmp_path: Path) -> None:
    scorer = new_scorer(save(tmp_path))
    with torch.no_grad():
        for parameter in scorer._model.parameters():
            parameter.fill_(math.nan)
    assert scorer(new_pixels(2), ["a", "b"]) == [Scored(None)] * 2


@pytest.mark.slow
def test_the_same_group_has_the_same_scores(tmp_path: Path) -> None:
    save_similarity(tmp_path)
    pixels = new_pixels()
    assert new_scorer(tmp_path)(pixels, PROMPTS) == new_scorer(tmp_path)(pixels, PROMPTS)


@pytest.mark.slow
def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    folder = save_classifier(tmp_path)
    model, _ = theirs(folder, "ViTForImageClassification")
    state = model.state_dict()
    del state["vit.layernorm.weight"]
    model.save_pretrained(folder, state_dict=state)
    with pytest.raises(ModelError, match=r"1 weight of ViT\w+, missing .*vit\.layernorm\.weight"):
        new_scorer(folder)
