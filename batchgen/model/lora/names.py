"""How tools name the linears of a model in LoRA files.

A name is a prefix and a path. The prefix says who wrote it and which component is meant. The path
is diffusers', or that of the model's authors (Black Forest Labs, Stability AI), whose linears stack
several of diffusers'. kohya's scripts write `_` for `.`, so all names are compared in that form.

Sources: `networks/lora_flux.py` and `lora_sd3.py` of https://github.com/kohya-ss/sd-scripts;
`convert_flux_transformer_checkpoint_to_diffusers` and its neighbours in diffusers'
`loaders/single_file_utils.py`, and `loaders/lora_conversion_utils.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

Shape = tuple[int, int]
"""Outputs and inputs of a linear."""

# What begins a name → the component; None: the T5 encoder. The first that fits is taken.
_TEXT_PREFIXES = {
    "lora_te1_": "text_encoder",
    "lora_te_": "text_encoder",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoder.": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder_3.": "text_encoder_3",
    "lora_te3_": None,
    "text_encoders.t5xxl.transformer.": None,
}
PEFT = "base_model.model."
"""peft's prefix, which may stand before or behind the component's."""
_TRANSFORMER_PREFIXES = (
    "lora_unet_",
    "lora_transformer_",
    "lycoris_",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
)

# Modules whose matrices have a row for each token or position.
_TABLES = (
    *("token_embedding", "position_embedding"),  # CLIP
    *("shared", "embed_tokens", "relative_attention_bias"),  # T5
)

_QKV = "attn_to_q", "attn_to_k", "attn_to_v"
_CONTEXT_QKV = "attn_add_q_proj", "attn_add_k_proj", "attn_add_v_proj"


def _blocks(theirs: str, ours: str, names: Mapping[str, tuple[str, ...]]) -> dict[str, list[str]]:
    """Names in each block. `{}` stands for the block's number."""
    return {
        f"{theirs}_{{}}_{name}": [f"{ours}_{{}}_{linear}" for linear in linears]
        for name, linears in names.items()
    }


# The authors' name → diffusers' linears whose rows, stacked, it has; by the kind of model.
_FLUX = {
    **_blocks(
        "double_blocks",
        "transformer_blocks",
        {
            "img_attn_qkv": _QKV,
            "img_attn_proj": ("attn_to_out_0",),
            "img_mlp_0": ("ff_net_0_proj",),
            "img_mlp_2": ("ff_net_2",),
            "img_mod_lin": ("norm1_linear",),
            "txt_attn_qkv": _CONTEXT_QKV,
            "txt_attn_proj": ("attn_to_add_out",),
            "txt_mlp_0": ("ff_context_net_0_proj",),
            "txt_mlp_2": ("ff_context_net_2",),
            "txt_mod_lin": ("norm1_context_linear",),
            # XLabs' adapters.
            "processor_qkv_lora1": _QKV,
            "processor_proj_lora1": ("attn_to_out_0",),
            "processor_qkv_lora2": _CONTEXT_QKV,
            "processor_proj_lora2": ("attn_to_add_out",),
        },
    ),
    **_blocks(
        "single_blocks",
        "single_transformer_blocks",
        {
            "linear1": (*_QKV, "proj_mlp"),
            "linear2": ("proj_out",),
            "modulation_lin": ("norm_linear",),
            # XLabs' adapters.
            "processor_qkv_lora": _QKV,
            "processor_proj_lora": ("proj_out",),
        },
    ),
    "img_in": ["x_embedder"],
    "txt_in": ["context_embedder"],
    "time_in_in_layer": ["time_text_embed_timestep_embedder_linear_1"],
    "time_in_out_layer": ["time_text_embed_timestep_embedder_linear_2"],
    "guidance_in_in_layer": ["time_text_embed_guidance_embedder_linear_1"],
    "guidance_in_out_layer": ["time_text_embed_guidance_embedder_linear_2"],
    "vector_in_in_layer": ["time_text_embed_text_embedder_linear_1"],
    "vector_in_out_layer": ["time_text_embed_text_embedder_linear_2"],
    "final_layer_linear": ["proj_out"],
    "final_layer_adaLN_modulation_1": ["norm_out_linear"],
}
# FLUX.1's, without what embeds conditions and modulates; and what computes the modulations.
_CHROMA = _FLUX | {
    "distilled_guidance_layer_layers_{}_in_layer": ["distilled_guidance_layer_layers_{}_linear_1"],
    "distilled_guidance_layer_layers_{}_out_layer": ["distilled_guidance_layer_layers_{}_linear_2"],
}
_FLUX2 = {
    **_blocks(
        "double_blocks",
        "transformer_blocks",
        {
            "img_attn_qkv": _QKV,
            "img_attn_proj": ("attn_to_out_0",),
            "img_mlp_0": ("ff_linear_in",),
            "img_mlp_2": ("ff_linear_out",),
            "txt_attn_qkv": _CONTEXT_QKV,
            "txt_attn_proj": ("attn_to_add_out",),
            "txt_mlp_0": ("ff_context_linear_in",),
            "txt_mlp_2": ("ff_context_linear_out",),
        },
    ),
    **_blocks(
        "single_blocks",
        "single_transformer_blocks",
        {"linear1": ("attn_to_qkv_mlp_proj",), "linear2": ("attn_to_out",)},
    ),
    "img_in": ["x_embedder"],
    "txt_in": ["context_embedder"],
    "time_in_in_layer": ["time_guidance_embed_timestep_embedder_linear_1"],
    "time_in_out_layer": ["time_guidance_embed_timestep_embedder_linear_2"],
    "double_stream_modulation_img_lin": ["double_stream_modulation_img_linear"],
    "double_stream_modulation_txt_lin": ["double_stream_modulation_txt_linear"],
    "single_stream_modulation_lin": ["single_stream_modulation_linear"],
    "final_layer_linear": ["proj_out"],
    "final_layer_adaLN_modulation_1": ["norm_out_linear"],
}
_SD3 = {
    **_blocks(
        "joint_blocks",
        "transformer_blocks",
        {
            "x_block_attn_qkv": _QKV,
            "x_block_attn_proj": ("attn_to_out_0",),
            "x_block_attn2_qkv": ("attn2_to_q", "attn2_to_k", "attn2_to_v"),
            "x_block_attn2_proj": ("attn2_to_out_0",),
            "x_block_mlp_fc1": ("ff_net_0_proj",),
            "x_block_mlp_fc2": ("ff_net_2",),
            "x_block_adaLN_modulation_1": ("norm1_linear",),
            "context_block_attn_qkv": _CONTEXT_QKV,
            "context_block_attn_proj": ("attn_to_add_out",),
            "context_block_mlp_fc1": ("ff_context_net_0_proj",),
            "context_block_mlp_fc2": ("ff_context_net_2",),
            "context_block_adaLN_modulation_1": ("norm1_context_linear",),
        },
    ),
    "t_embedder_mlp_0": ["time_text_embed_timestep_embedder_linear_1"],
    "t_embedder_mlp_2": ["time_text_embed_timestep_embedder_linear_2"],
    "y_embedder_mlp_0": ["time_text_embed_text_embedder_linear_1"],
    "y_embedder_mlp_2": ["time_text_embed_text_embedder_linear_2"],
    "final_layer_linear": ["proj_out"],
    "final_layer_adaLN_modulation_1": ["norm_out_linear"],
}
_ORIGINAL: dict[str, dict[str, list[str]]] = {
    "FLUX.1": _FLUX,
    "Chroma": _CHROMA,
    "FLUX.2": _FLUX2,
    # Its authors' names are diffusers'.
    "Qwen-Image": {},
    "Stable Diffusion 3": _SD3,
}
# What paths tell of the model that a LoRA was made for.
_MADE_FOR = {
    r"(double|single)_stream_modulation|time_guidance|.*to_qkv_mlp_proj": "FLUX.2",
    r"transformer_blocks_\d+_(img|txt)_(mod|mlp)_": "Qwen-Image",
    r"distilled_guidance_layer_": "Chroma",
    r"guidance_|vector_in|.*_mod(ulation)?_lin$": "FLUX.1",
    r"(double_blocks|single_blocks|single_transformer_blocks)_\d": "FLUX.1, Chroma or FLUX.2",
    r"joint_blocks_\d": "Stable Diffusion 3",
    r"(down|up|input|output|mid|middle)_blocks?_": "Stable Diffusion 1, 2 or XL",
    r"blocks_\d+_(self|cross)_attn_|patch_embedding": "Wan",
}


@dataclass(frozen=True, slots=True)
class Linears:
    """The linears that a name in a LoRA file means."""

    # As `linear_name` writes them. Their rows, stacked, are the rows of the product.
    names: tuple[str, ...]
    # The authors' modulation by two vectors has shift before scale, and diffusers' has scale first.
    halves_exchanged: bool


def linear_name(component: str, path: str) -> str:
    """A linear's name for comparison: `component.path`, with `_` for the path's `.`.

    CLIP's `text_model`, Qwen3's `model` and Qwen2.5-VL's `model.language_model` are left out,
    because some formats and versions do so.
    """
    name = path.replace(".", "_").removeprefix("text_model_").removeprefix("model_")
    name = name.removeprefix("language_model_")
    return f"{component}.{name}"


def is_table(tensor: str) -> bool:
    """Whether a matrix of a text encoder is looked up by row, and is no linear's weight."""
    return tensor.removesuffix(".weight").rpartition(".")[2] in _TABLES


def split_prefix(module: str, components: set[str]) -> tuple[str, str]:
    """The component that a name in a LoRA file means, and the path in it, as the file writes it.

    :param components: those of the model.
    """
    module = module.removeprefix(PEFT)
    for prefix, component in _TEXT_PREFIXES.items():
        if module.startswith(prefix):
            # T5 is the last of a model's text encoders.
            last = max(each for each in {*components, "text_encoder"} if each.startswith("text_"))
            return component or last, module.removeprefix(prefix).removeprefix(PEFT)
    prefix = next((each for each in _TRANSFORMER_PREFIXES if module.startswith(each)), "")
    return "transformer", module.removeprefix(prefix).removeprefix(PEFT)


def find_linears(component: str, path: str, known: Mapping[str, Shape]) -> Linears | None:
    """The linears that a path in a LoRA file means; None: the model has not all of them.

    :param path: as the file writes it.
    :param known: the linears of the model.
    """
    name = path.replace(".", "_")
    original = _ORIGINAL[kind_of(known)] if component == "transformer" else {}
    ours = _from_original(name, original)
    names = tuple(linear_name(component, each) for each in ours or [name])
    if not all(each in known for each in names):
        return None
    outputs, inputs = known[names[0]]
    halves = name.endswith("adaLN_modulation_1") and outputs == 2 * inputs
    return Linears(names, halves_exchanged=halves)


def made_for(path: str) -> str:
    """The models that a path in a LoRA file belongs to; "" if it tells nothing."""
    name = path.replace(".", "_")
    return next((model for pattern, model in _MADE_FOR.items() if re.match(pattern, name)), "")


def kind_of(known: Mapping[str, Shape]) -> str:
    """The model that has these linears. Stable Diffusion 3 embeds patches by a convolution."""
    if linear_name("transformer", "single_stream_modulation.linear") in known:
        return "FLUX.2"
    if linear_name("transformer", "txt_in") in known:
        return "Qwen-Image"
    if linear_name("transformer", "distilled_guidance_layer.in_proj") in known:
        return "Chroma"
    return "FLUX.1" if linear_name("transformer", "x_embedder") in known else "Stable Diffusion 3"


def _from_original(name: str, original: Mapping[str, list[str]]) -> list[str] | None:
    """A name of the model's authors in diffusers' words; None: it is none of theirs."""
    block = re.match(r"(?:[a-z]+_blocks|distilled_guidance_layer_layers)_(\d+)_", name)
    if block is None:
        return original.get(name)
    ours = original.get(name.replace(f"_{block[1]}_", "_{}_", 1))
    return ours and [each.format(block[1]) for each in ours]
