"""What Qwen-Image has that other families do not."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.engine.families.test_every_family import (
    RELATIVE,
    TEXT_TOKENS,
    difference,
    job_words,
    open_engine,
)
from tests.support.rehearsal import ask, settings, write_prompts
from tests.support.stock import make_picture
from tests.support.tiny_families import FAMILIES

QWEN_IMAGE = FAMILIES["qwen image"]
LONG = "a red circle on a blue square, " * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return QWEN_IMAGE.save(tmp_path_factory.mktemp("qwen") / "model")


@pytest.mark.slow
def test_a_prompt_that_is_cut_is_cut_as_stock_cuts_it(folder: Path) -> None:
    engine, picture = open_engine(folder), make_picture(prompt=LONG, guidance=1.0, steps=2)
    assert engine.family.encode([LONG, "a"]).lengths == (TEXT_TOKENS, 6)
    theirs = QWEN_IMAGE.stock(QWEN_IMAGE.open(folder), picture)
    assert difference(theirs, engine.denoise([picture]).latents) <= RELATIVE


def test_one_step_is_refused_where_the_scheduler_needs_two(folder: Path, tmp_path: Path) -> None:
    """Its noise levels are stretched to end at `shift_terminal`: of one level, 0 / 0."""
    prompts = write_prompts(tmp_path / "prompts.parquet", ["a red circle"])
    words = job_words(folder, sampling__guidance=1)
    for steps, more, code in ((1, {}, 2), (2, {}, 0), (1, {"sampling__shift": 1}, 0)):
        asked = ask("plan", prompts, *words, *settings(sampling__steps=steps, **more))
        assert asked.code == code, asked.err
        assert (code == 0) != ("shift_terminal = 0.02" in asked.err)


def write_as_published(encoder: Path) -> None:
    """With names and a configuration from before version 5 of transformers."""
    config = encoder / "config.json"
    content = json.loads(config.read_text())
    content |= content.pop("text_config") | {"model_type": "qwen2_5_vl"}
    content["rope_scaling"] = content.pop("rope_parameters")
    content["rope_theta"] = content["rope_scaling"].pop("rope_theta")
    config.write_text(json.dumps(content))
    weights = encoder / "model.safetensors"
    renamed = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): tensor
        for name, tensor in load_file(weights).items()
    }
    assert "model.layers.0.mlp.up_proj.weight" in renamed
    save_file(renamed, weights, {"format": "pt"})


@pytest.mark.slow
def test_published_files_and_newly_saved_ones_are_one_encoder(folder: Path) -> None:
    as_saved = open_engine(folder).family.encode(["a red circle"])
    write_as_published(folder / "text_encoder")
    as_published = open_engine(folder).family.encode(["a red circle"])
    assert torch.equal(as_saved.tokens, as_published.tokens)
