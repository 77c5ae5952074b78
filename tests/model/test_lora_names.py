"""Which linears the names of common trainers mean, and how other names are refused.

That the meant weights are changed as meant: `tests/engine/families/test_lora_trainers.py`.
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from batchgen.errors import ModelError
from batchgen.model.lora import linear_name, read_lora
from tests.support.small_transformers import MODELS, shapes_of

RANK, ALPHA = 2, 3.0


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    with torch.device("meta"):
        return {name: make() for name, make in MODELS.items()}


def write(path: Path, module: str, outputs: int, inputs: int) -> Path:
    """A LoRA file with one module, in kohya's spelling."""
    content = {
        f"{module}.lora_down.weight": torch.ones(RANK, inputs),
        f"{module}.lora_up.weight": torch.ones(outputs, RANK),
        f"{module}.alpha": torch.tensor(ALPHA),
    }
    save_file(content, path)
    return path


# Names in files of their trainers, and the linears that they mean.
NAMES = {
    ("FLUX.2", "diffusion_model.single_blocks.1.linear1"): [
        "single_transformer_blocks.1.attn.to_qkv_mlp_proj"
    ],
    ("FLUX.2", "lora_unet_double_blocks_1_txt_mlp_2"): [
        "transformer_blocks.1.ff_context.linear_out"
    ],
    ("FLUX.2", "lycoris_single_transformer_blocks_0_attn_to_out"): [
        "single_transformer_blocks.0.attn.to_out"
    ],
    ("FLUX.2", "diffusion_model.guidance_in.out_layer"): [
        "time_guidance_embed.guidance_embedder.linear_2"
    ],
    ("Chroma", "lora_unet_single_blocks_1_linear2"): ["single_transformer_blocks.1.proj_out"],
    ("Chroma", "diffusion_model.distilled_guidance_layer.layers.1.in_layer"): [
        "distilled_guidance_layer.layers.1.linear_1"
    ],
    ("Chroma", "lora_unet_distilled_guidance_layer_out_proj"): [
        "distilled_guidance_layer.out_proj"
    ],
    ("Chroma", "diffusion_model.final_layer.linear"): ["proj_out"],
    ("Qwen-Image", "lora_unet_transformer_blocks_0_img_mlp_net_0_proj"): [
        "transformer_blocks.0.img_mlp.net.0.proj"
    ],
    ("Qwen-Image", "transformer_blocks.1.attn.add_k_proj"): [
        "transformer_blocks.1.attn.add_k_proj"
    ],
    ("Qwen-Image", "diffusion_model.transformer_blocks.1.txt_mod.1"): [
        "transformer_blocks.1.txt_mod.1"
    ],
    ("Qwen-Image", "lora_unet_time_text_embed_timestep_embedder_linear_1"): [
        "time_text_embed.timestep_embedder.linear_1"
    ],
    ("ERNIE-Image", "lora_unet_layers_1_self_attention_to_out_0"): [
        "layers.1.self_attention.to_out.0"
    ],
    ("ERNIE-Image", "diffusion_model.layers.0.mlp.gate_proj"): ["layers.0.mlp.gate_proj"],
    ("Z-Image", "lora_unet_layers_1_feed_forward_w2"): ["layers.1.feed_forward.w2"],
    ("Z-Image", "lora_unet_context_refiner_0_attention_to_q"): ["context_refiner.0.attention.to_q"],
    ("Z-Image", "diffusion_model.layers.0.attention.qkv"): [
        f"layers.0.attention.to_{each}" for each in "qkv"
    ],
    ("Z-Image", "lora_unet_noise_refiner_0_attention_out"): ["noise_refiner.0.attention.to_out.0"],
    ("Z-Image", "diffusion_model.layers.1.adaLN_modulation.0"): ["layers.1.adaLN_modulation.0"],
    ("Z-Image", "diffusion_model.x_embedder"): ["all_x_embedder.2-1"],
    ("Z-Image", "diffusion_model.final_layer.adaLN_modulation.1"): [
        "all_final_layer.2-1.adaLN_modulation.1"
    ],
}


def known(model: nn.Module) -> dict[str, tuple[int, int]]:
    return {linear_name("transformer", name): shape for name, shape in shapes_of(model).items()}


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_a_name_means_these_linears(
    models: dict[str, nn.Module], tmp_path: Path, kind: str, name: str
) -> None:
    ours = shapes_of(models[kind])
    meant = NAMES[kind, name]
    rows, width = sum(ours[each][0] for each in meant), ours[meant[0]][1]
    path = write(tmp_path / "lora.safetensors", name, rows, width)
    (addition,) = read_lora(path, known(models[kind]))
    assert addition.linears.names == tuple(linear_name("transformer", each) for each in meant)
    assert addition.strength == ALPHA / RANK
    assert not addition.linears.halves_exchanged


FOREIGN = [
    ("Chroma", "lora_unet_double_blocks_0_img_mod_lin", "made for FLUX.1, and the model is a Chro"),
    ("FLUX.2", "lora_unet_single_blocks_0_modulation_lin", "for FLUX.1, and the model is a FLUX.2"),
    ("Z-Image", "diffusion_model.layers.0.self_attention.to_q", "made for ERNIE-Image, and"),
    (
        "ERNIE-Image",
        "lora_unet_layers_0_attention_qkv",
        "as kohya's scripts and musubi-tuner write",
    ),
    ("ERNIE-Image", "diffusion_model.noise_refiner.0.attention.out", "made for Z-Image, and the m"),
    ("Qwen-Image", "lora_unet_double_blocks_0_img_attn_qkv", "made for FLUX.1, FLUX.2 or Chroma"),
    ("Qwen-Image", "transformer.transformer_blocks.9.attn.to_q", "such as transformer_blocks.0.at"),
    ("Z-Image", "lycoris_layers_7_attention_to_q", "as LyCORIS write it, names no linear of"),
    (
        "FLUX.2",
        "transformer.transformer_blocks.0.img_mlp.net.2",
        "made for Qwen-Image, and the mod",
    ),
]


@pytest.mark.parametrize(("kind", "name", "told"), FOREIGN)
def test_a_name_of_another_model_is_refused_with_its_writer_and_what_is_expected(
    models: dict[str, nn.Module], tmp_path: Path, kind: str, name: str, told: str
) -> None:
    path = write(tmp_path / "lora.safetensors", name, 4, 4)
    with pytest.raises(ModelError, match=told) as refusal:
        read_lora(path, known(models[kind]))
    assert name in str(refusal.value)


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("lokr_w1", "LoKr's or of another method"),
        ("hada_w1_a", "LoHa's, LoKr's or of another"),
        ("dora_scale", "it is a DoRA's; merge"),
        ("dora_layer.weight", "it is a DoRA's; merge"),
        ("use_rslora_flag", "rsLoRA.; merge it"),
        ("diff", "a change of a whole weight"),
        ("diff_b", "a change of a bias"),
        ("lora_mid.weight", "a convolution's"),
    ],
)
@pytest.mark.parametrize("kind", ["Qwen-Image", "Z-Image"])
def test_what_is_no_product_of_two_matrices_is_refused_by_name(
    models: dict[str, nn.Module], tmp_path: Path, kind: str, part: str, told: str
) -> None:
    name = next(iter(shapes_of(models[kind]))).replace(".", "_")
    path = tmp_path / "lora.safetensors"
    save_file({f"lora_unet_{name}.{part}": torch.ones(2, 2)}, path)
    with pytest.raises(ModelError, match=rf"{part}.*{told}"):
        read_lora(path, known(models[kind]))
    save_file({"lokr_factor": torch.ones(())}, path)
    with pytest.raises(ModelError, match=r"lokr_factor.*LoKr's"):
        read_lora(path, known(models[kind]))
