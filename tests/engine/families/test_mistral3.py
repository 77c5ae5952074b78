"""The language model in a Mistral3: FLUX.2 dev's and ERNIE-Image's text encoder."""

import json
from pathlib import Path

import pytest
import torch
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE as STOCK
from transformers import Mistral3ForConditionalGeneration, Mistral3Model

from batchgen.engine.device import Device
from batchgen.engine.families.first_layers import FirstLayers
from batchgen.engine.families.loading import load_module
from batchgen.errors import ModelError
from batchgen.model.checkpoint import resolve
from batchgen.model.families.flux2 import SYSTEM_MESSAGE
from batchgen.settings.job import Model
from tests.engine.families.test_every_family import open_engine
from tests.support.rehearsal import ask, settings, write_prompts
from tests.support.tiny_families import FAMILIES
from tests.support.tiny_mistral3 import YARN, mistral3_config

CPU = Device(torch.device("cpu"), torch.float32, "a test")


@pytest.mark.parametrize("text", ["mistral", "ministral3"])
@pytest.mark.parametrize("kind", [Mistral3Model, Mistral3ForConditionalGeneration])
def test_it_is_the_whole_model_s_up_to_the_last_layer_that_is_read(
    kind, text: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = mistral3_config(40, 4, model_type=text, rope_parameters=YARN)
    whole = kind(config).eval()
    whole.save_pretrained(tmp_path / "text_encoder")
    ids = torch.randint(40, (2, 50))
    with torch.inference_mode():
        hidden = whole(input_ids=ids, output_hidden_states=True).hidden_states
        for end in (2, -1):
            read = load_module(tmp_path, "text_encoder", FirstLayers(end), CPU)
            last = read(input_ids=ids).last_hidden_state
            torch.testing.assert_close(last, hidden[range(4)[:end][-1] + 1])
    assert {name.split(".")[0] for name, _ in read.named_parameters()} == {"embed_tokens", "layers"}


def test_weights_that_it_needs_and_the_files_lack_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "text_encoder"
    Mistral3Model(mistral3_config(40, 2)).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 4
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"weights of a language model, missing or"):
        load_module(tmp_path, "text_encoder", FirstLayers(-1), CPU)


def test_the_system_message_is_the_one_that_the_pipeline_of_flux2_dev_sends() -> None:
    assert SYSTEM_MESSAGE == STOCK


@pytest.fixture(scope="module")
def ernie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ERNIE-Image as published: with a prompt enhancer, of which no file is there."""
    save = FAMILIES["ernie image"].save
    folder = save(tmp_path_factory.mktemp("ernie") / "model", text="ministral3")
    index = folder / "model_index.json"
    enhancer = {
        "pe": ["transformers", "Ministral3ForCausalLM"],
        "pe_tokenizer": ["transformers", "TokenizersBackend"],
    }
    index.write_text(json.dumps(json.loads(index.read_text()) | enhancer))
    return folder


def test_a_prompt_enhancer_is_left_out_and_told(ernie: Path, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.parquet", ["a red circle"])
    planned = ask("plan", prompts, *settings(model__path=ernie, model__max_sequence_length=80))
    assert planned.code == 0, planned.err
    assert "the prompt enhancer is left out: prompts are painted as they are" in planned.out
    assert not any(name.startswith("pe") for name in resolve(Model(path=str(ernie))).identity)


def test_an_empty_prompt_is_one_token_and_a_long_one_is_cut(ernie: Path) -> None:
    text = open_engine(ernie).family.encode(["", "a circle", "x" * 100])
    assert text.lengths == (1, 8, 80)
    assert text.tokens.shape == (3, 80, 32)
