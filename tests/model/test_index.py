"""Components are compared with those that the engine builds: other classes are refused at plan."""

import json
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import ModelError
from batchgen.model import resolve
from batchgen.settings import Model
from tests.support.sd3_folder import save_sd3


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as error:
        resolve(Model(path=str(folder)))
    return str(error.value)


@pytest.mark.parametrize(
    "scheduler",
    [
        "FlowMatchHeunDiscreteScheduler",
        "FlowMatchLCMScheduler",
        "UniPCMultistepScheduler",
        "EulerDiscreteScheduler",
    ],
)
def test_a_model_with_another_scheduler_is_refused(scheduler: str, model_folder: Path) -> None:
    edit(model_folder / "model_index.json", scheduler=["diffusers", scheduler])
    told = refusal(model_folder)
    assert f'model_index.json: scheduler is ["diffusers", "{scheduler}"]' in told
    assert '["diffusers", "FlowMatchEulerDiscreteScheduler"] only' in told


def test_another_scheduler_in_its_own_configuration_is_refused(model_folder: Path) -> None:
    path = model_folder / "scheduler" / "scheduler_config.json"
    edit(path, _class_name="FlowMatchHeunDiscreteScheduler")
    told = refusal(model_folder)
    assert f"{path}: written for FlowMatchHeunDiscreteScheduler" in told
    assert "batchgen builds FlowMatchEulerDiscreteScheduler" in told


@pytest.mark.parametrize(
    ("component", "key", "written"),
    [
        ("transformer", "_class_name", "ChromaTransformer2DModel"),
        ("vae", "_class_name", "AutoencoderTiny"),
        ("text_encoder", "architectures", ["CLIPVisionModel"]),
        ("text_encoder_2", "architectures", ["UMT5EncoderModel"]),
    ],
)
def test_a_configuration_of_another_class_is_refused(
    component: str, key: str, written: Any, model_folder: Path
) -> None:
    edit(model_folder / component / "config.json", **{key: written})
    name = written if isinstance(written, str) else written[0]
    assert f"{component}/config.json: written for {name}" in refusal(model_folder)


@pytest.mark.parametrize(
    ("component", "given"),
    [
        ("transformer", ["diffusers", "SD3Transformer2DModel"]),
        ("transformer", ["my_code", "FluxTransformer2DModel"]),
        ("vae", ["diffusers", "AutoencoderTiny"]),
        ("text_encoder", ["transformers", "CLIPTextModelWithProjection"]),
        ("text_encoder_2", ["transformers", "UMT5EncoderModel"]),
        ("tokenizer", ["transformers", "LlamaTokenizerFast"]),
        ("tokenizer_2", ["transformers", "CLIPTokenizer"]),
        ("vae", "AutoencoderKL"),
        ("vae", [["diffusers"], {}]),
        ("vae", 5),
        ("vae", ["diffusers", None]),
    ],
)
def test_another_class_in_the_index_is_refused(
    component: str, given: Any, model_folder: Path
) -> None:
    edit(model_folder / "model_index.json", **{component: given})
    assert f"{component} is {json.dumps(given)}, but batchgen paints FluxPipeline with" in refusal(
        model_folder
    )


def test_classes_as_published_folders_name_them_are_accepted(model_folder: Path) -> None:
    edit(
        model_folder / "model_index.json",
        tokenizer=["transformers", "CLIPTokenizer"],
        tokenizer_2=["transformers", "T5TokenizerFast"],
        image_encoder=[None, None],
    )
    edit(model_folder / "text_encoder" / "config.json", architectures=["CLIPModel"])
    edit(
        model_folder / "text_encoder_2" / "config.json",
        architectures=["T5ForConditionalGeneration"],
    )
    edit(model_folder / "transformer" / "config.json", _name_or_path="somewhere")
    assert resolve(Model(path=str(model_folder))).family == "flux"


def test_a_component_that_the_pipeline_does_not_have_is_refused(model_folder: Path) -> None:
    edit(model_folder / "model_index.json", controlnet=["diffusers", "FluxControlNetModel"])
    (model_folder / "controlnet").mkdir()
    told = refusal(model_folder)
    assert "controlnet is" in told
    assert "which FluxPipeline does not have and batchgen would leave out" in told


@pytest.mark.parametrize("component", ["scheduler", "vae", "tokenizer", "text_encoder"])
@pytest.mark.parametrize("given", [None, [None, None], ...])
def test_a_component_that_is_needed_and_null_is_refused(
    component: str, given: Any, model_folder: Path
) -> None:
    edit(model_folder / "model_index.json", **{component: given})
    assert f"{component} is {'null' if isinstance(given, list) else 'missing'}" in refusal(
        model_folder
    )


@pytest.mark.parametrize("name", ["custom", ["pipeline", "Mine"], None, 3, {"a": 1}])
def test_a_pipeline_class_of_any_other_form_is_refused(name: Any, model_folder: Path) -> None:
    edit(model_folder / "model_index.json", _class_name=name)
    assert f"pipeline class {name!r} has no family here" in refusal(model_folder)


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sd3(tmp_path_factory.mktemp("sd3") / "model", num_layers=2)


def test_sd3_without_t5_says_that_t5_is_needed(sd3: Path, tmp_path: Path) -> None:
    index = json.loads((sd3 / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(
        json.dumps(index | {"text_encoder_3": [None, None], "tokenizer_3": [None, None]})
    )
    told = refusal(tmp_path)
    for name in ("text_encoder_3", "tokenizer_3"):
        assert f"{name} is null: batchgen does not paint without T5" in told
    assert "Fetch text_encoder_3/ and tokenizer_3/ of the same model" in told


def test_components_of_different_models_are_refused_with_the_widths(
    sd3: Path, model_folder: Path
) -> None:
    def joined(component: str) -> Path:
        return model_folder / component / "config.json"

    edit(joined("vae"), latent_channels=4)
    assert "transformer in_channels = 64, but the other components give 16" in refusal(model_folder)
    edit(joined("vae"), latent_channels=16)
    edit(joined("text_encoder_2"), d_model=32)
    told = "transformer joint_attention_dim = 64, but the other components give 32"
    assert told in refusal(model_folder)
    edit(joined("text_encoder_2"), d_model=64)
    edit(joined("text_encoder"), hidden_size=32)
    told = "transformer pooled_projection_dim = 64, but the other components give 32"
    assert told in refusal(model_folder)
    config = sd3 / "text_encoder_2" / "config.json"
    before = config.read_text()
    edit(config, projection_dim=16)
    told = "transformer pooled_projection_dim = 48, but the other components give 32"
    assert told in refusal(sd3)
    config.write_text(before)
    resolve(Model(path=str(sd3)))
