"""Tensors that are missing, misshapen or left over are refused at planning, with file and names."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from batchgen.engine.device import choose_device
from batchgen.engine.families import load_family
from batchgen.engine.families.family import Family
from batchgen.errors import ModelError
from batchgen.model import resolve
from batchgen.settings import EngineSettings, Model

Tensors = dict[str, Tensor]
WEIGHTS = {
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
}


def change(folder: Path, component: str, edit: Callable[[Tensors], Tensors]) -> Path:
    path = folder / component / WEIGHTS[component]
    save_file(edit(load_file(path)), path, metadata={"format": "pt"})
    return path


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as error:
        resolve(Model(path=str(folder)))
    return str(error.value)


def ones(*shape: int) -> Tensor:
    return torch.ones(shape)


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


def with_names(rename: Callable[[str], str]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {rename(key): tensor for key, tensor in tensors.items()}


LORA = "transformer_blocks.0.attn.to_q.lora_A.weight"
LEFT_OVER = {
    "scales beside FP8 weights": (
        "transformer",
        {"proj_out.scale_weight": ones(), "x_embedder.scale_weight": ones()},
        "2 tensors (proj_out.scale_weight, x_embedder.scale_weight)",
        "proj_out.scale_weight looks like a scale of quantized weights",
    ),
    "a mark of FP8": (
        "transformer",
        {"scaled_fp8": ones(2)},
        "1 tensor (scaled_fp8)",
        "a scale of quantized weights",
    ),
    "a LoRA that is not merged": (
        "transformer",
        {LORA: ones(4, 128), LORA.replace("_A", "_B"): ones(128, 4)},
        f"2 tensors ({LORA}, ",
        "a LoRA's that is not merged. Give the LoRA as [[model.lora]]",
    ),
    "a block more": (
        "transformer",
        {f"transformer_blocks.2.attn.{name}.weight": ones(128, 128) for name in "abcd"},
        "4 tensors (transformer_blocks.2.attn.a.weight, ",
        "of different models: fetch both again",
    ),
    "a LoRA of T5": (
        "text_encoder_2",
        {"encoder.block.0.layer.0.SelfAttention.q.lora_A.weight": ones(4, 64)},
        "T5EncoderModel has no place for 1 tensor",
        "[[model.lora]]",
    ),
    "a scale of CLIP": (
        "text_encoder",
        {"text_model.encoder.layers.0.mlp.fc1.weight_scale": ones()},
        "CLIPTextModel has no place for 1 tensor",
        "quantized weights",
    ),
    "a layer that decodes": (
        "vae",
        {"post_quant_conv.weight": ones(16, 16, 1, 1), "post_quant_conv.bias": ones(16)},
        "AutoencoderKL has no place for 2 tensors (post_quant_conv.bias, post_quant_conv.weight)",
        "of different models",
    ),
    "guidance of a model without it": (
        "transformer",
        {"time_text_embed.other_embedder.linear_1.bias": ones(128)},
        "1 tensor (time_text_embed.other_embedder.linear_1.bias)",
        "of different models",
    ),
}


@pytest.mark.parametrize("what", LEFT_OVER)
def test_tensors_without_a_place_are_refused(what: str, model_folder: Path) -> None:
    component, more, counted, remedy = LEFT_OVER[what]
    path = change(model_folder, component, lambda tensors: tensors | more)
    told = refusal(model_folder)
    assert told.startswith(f"{path}: ")
    assert counted in told
    assert remedy in told
    assert "would leave" in told


def test_more_blocks_than_the_configuration_has_are_refused(model_folder: Path) -> None:
    config = model_folder / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"num_layers": 2', '"num_layers": 1'))
    told = refusal(model_folder)
    assert "no place for 32 tensors (transformer_blocks.1." in told
    assert ", ...)" in told


def test_fewer_blocks_than_the_configuration_has_are_refused(model_folder: Path) -> None:
    config = model_folder / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"num_layers": 2', '"num_layers": 3'))
    told = refusal(model_folder)
    needs = "FluxTransformer2DModel needs 32 tensors (transformer_blocks.2."
    assert f"{config.parent}: {needs}" in told
    assert "that no weight file holds" in told


@pytest.mark.parametrize(
    ("component", "name"),
    [
        ("transformer", "proj_out.weight"),
        ("vae", "decoder.conv_out.bias"),
        ("text_encoder", "final_layer_norm.weight"),
        ("text_encoder_2", "shared.weight"),
    ],
)
def test_a_missing_tensor_is_named(component: str, name: str, model_folder: Path) -> None:
    change(model_folder, component, without(name))
    assert f"needs 1 tensor ({name}) that no weight file holds" in refusal(model_folder)


def test_a_tensor_of_another_shape_is_named_with_both(model_folder: Path) -> None:
    name = "embeddings.position_embedding.weight"
    path = change(model_folder, "text_encoder", lambda tensors: tensors | {name: ones(248, 64)})
    told = refusal(model_folder)
    assert f"{path}: 1 tensor ({name}) of another shape" in told
    assert f"{name} is (248, 64), expected (77, 64)" in told


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool])
def test_whole_numbers_are_no_weights(dtype: torch.dtype, model_folder: Path) -> None:
    change(
        model_folder,
        "transformer",
        lambda tensors: {name: tensor.to(dtype) for name, tensor in tensors.items()},
    )
    assert "140 tensors (" in (told := refusal(model_folder))
    assert "quantized weights, which batchgen does not load" in told


def test_everything_that_is_wrong_with_a_component_is_told_at_once(model_folder: Path) -> None:
    def damage(tensors: Tensors) -> Tensors:
        return without("proj_out.bias")(tensors) | {"x.y": ones(1), "x_embedder.bias": ones(3)}

    change(model_folder, "transformer", damage)
    assert len(refusal(model_folder).splitlines()) == 3


def test_a_tensor_in_two_files_is_refused(model_folder: Path) -> None:
    folder = model_folder / "transformer"
    tensors = load_file(folder / WEIGHTS["transformer"])
    (folder / WEIGHTS["transformer"]).unlink()
    names = [f"diffusion_pytorch_model-0000{part}-of-00002.safetensors" for part in (1, 2)]
    save_file(tensors, folder / names[0])
    save_file({"proj_out.bias": tensors["proj_out.bias"]}, folder / names[1])
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(f'{{"weight_map": {{"a": "{names[0]}", "b": "{names[1]}"}}}}')
    told = refusal(model_folder)
    assert f"{folder / names[1]}: 1 tensor (proj_out.bias) also in {names[0]}" in told


# As published files have them, and exports of larger wholes.
HARMLESS: dict[str, tuple[str, Callable[[Tensors], Tensors]]] = {
    "FLUX.1's CLIP": ("text_encoder", with_names("text_model.{}".format)),
    "older CLIP": (
        "text_encoder",
        lambda tensors: (
            {f"text_model.{name}": tensor for name, tensor in tensors.items()}
            | {"text_model.embeddings.position_ids": torch.arange(77)[None]}
        ),
    ),
    "a whole CLIP": (
        "text_encoder",
        lambda tensors: (
            {f"text_model.{name}": tensor for name, tensor in tensors.items()}
            | {
                "text_projection.weight": ones(64, 64),
                "visual_projection.weight": ones(64, 64),
                "vision_model.post_layernorm.bias": ones(4),
                "logit_scale": ones(),
            }
        ),
    ),
    "T5's embeddings twice": (
        "text_encoder_2",
        lambda tensors: tensors | {"encoder.embed_tokens.weight": tensors["shared.weight"].clone()},
    ),
    "T5's embeddings by the other name": (
        "text_encoder_2",
        with_names(lambda name: name.replace("shared.", "encoder.embed_tokens.")),
    ),
    "a whole T5": (
        "text_encoder_2",
        lambda tensors: (
            tensors | {"decoder.final_layer_norm.weight": ones(64), "lm_head.weight": ones(48, 64)}
        ),
    ),
    "a VAE's unused convolution of encoding": (
        "vae",
        lambda tensors: (
            tensors | {"quant_conv.weight": ones(32, 32, 1, 1), "quant_conv.bias": ones(32)}
        ),
    ),
}


@pytest.fixture(scope="module")
def tiny() -> Family:
    return load_family(resolve(Model()), choose_device(EngineSettings(device="cpu")), 32)


@pytest.mark.parametrize("what", HARMLESS)
def test_weights_as_they_are_published_load_to_the_same_numbers(
    what: str, model_folder: Path, tiny: Family
) -> None:
    component, edit = HARMLESS[what]
    change(model_folder, component, edit)
    checkpoint, plain = resolve(Model(path=str(model_folder))), resolve(Model())
    assert checkpoint.tensors(component) == plain.tensors(component)
    assert checkpoint.linears() == plain.linears()
    loaded = load_family(checkpoint, choose_device(EngineSettings(device="cpu")), 32)
    part = {"text_encoder": "clip", "text_encoder_2": "text"}.get(component, component)
    expected = getattr(tiny, part).state_dict()
    for name, tensor in getattr(loaded, part).state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_fp8_weights_without_scales_are_numbers_like_others(model_folder: Path) -> None:
    change(
        model_folder,
        "transformer",
        lambda tensors: {name: each.to(torch.float8_e4m3fn) for name, each in tensors.items()},
    )
    resolve(Model(path=str(model_folder)))
