"""What the authors of each kind of model call its linears, beside diffusers: a table.

LoRA files name linears as the tool that trained them does: by diffusers' paths, or by those of the
model's authors, whose linears stack several of diffusers'. `names.py` reads this table. To add a
kind of model, add its `Kind`; where its authors' names are diffusers' own, that is two lines.

In the table a `*` stands for the number of a block, and a space parts the linears of a stack.

Sources: `convert_..._transformer_checkpoint_to_diffusers` in diffusers'
`loaders/single_file_utils.py`, and `loaders/lora_conversion_utils.py`; `networks/lora_flux.py` and
`lora_sd3.py` of https://github.com/kohya-ss/sd-scripts; `networks/lora_*.py` of
https://github.com/kohya-ss/musubi-tuner; `extensions_built_in/diffusion_models` of
https://github.com/ostris/ai-toolkit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Names = Mapping[str, str]
"""An authors' path → diffusers' paths whose rows, stacked, it has."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of model, as far as LoRA files differ in it."""

    name: str
    # The path of a linear that tells it from the kinds that follow it in `KINDS`.
    mark: str
    # A path in diffusers' words, for messages.
    example: str
    originals: Names = field(default_factory=dict)
    # Authors' modulations by two vectors that have shift before scale; diffusers has scale first.
    shift_first: tuple[str, ...] = ()


def _blocks(theirs: str, ours: str, names: Names) -> dict[str, str]:
    """Names inside each block of a list."""
    return {
        f"{theirs}.*.{name}": " ".join(f"{ours}.*.{linear}" for linear in linears.split())
        for name, linears in names.items()
    }


_QKV = "attn.to_q attn.to_k attn.to_v"
_CONTEXT_QKV = "attn.add_q_proj attn.add_k_proj attn.add_v_proj"
# The attention of double blocks by Black Forest Labs.
_ATTENTION = {
    "img_attn.qkv": _QKV,
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.qkv": _CONTEXT_QKV,
    "txt_attn.proj": "attn.to_add_out",
}
_ENDS = {"img_in": "x_embedder", "txt_in": "context_embedder", "final_layer.linear": "proj_out"}
_FINAL_MODULATION = "final_layer.adaLN_modulation.1"

# What FLUX.1 and Chroma share.
_FLUX_BLOCKS = {
    **_blocks(
        "double_blocks",
        "transformer_blocks",
        {
            **_ATTENTION,
            "img_mlp.0": "ff.net.0.proj",
            "img_mlp.2": "ff.net.2",
            "txt_mlp.0": "ff_context.net.0.proj",
            "txt_mlp.2": "ff_context.net.2",
            # XLabs' adapters.
            "processor.qkv_lora1": _QKV,
            "processor.proj_lora1": "attn.to_out.0",
            "processor.qkv_lora2": _CONTEXT_QKV,
            "processor.proj_lora2": "attn.to_add_out",
        },
    ),
    **_blocks(
        "single_blocks",
        "single_transformer_blocks",
        {
            "linear1": f"{_QKV} proj_mlp",
            "linear2": "proj_out",
            # XLabs' adapters.
            "processor.qkv_lora": _QKV,
            "processor.proj_lora": "proj_out",
        },
    ),
}
_FLUX = {
    **_FLUX_BLOCKS,
    **_ENDS,
    **_blocks(
        "double_blocks",
        "transformer_blocks",
        {"img_mod.lin": "norm1.linear", "txt_mod.lin": "norm1_context.linear"},
    ),
    **_blocks("single_blocks", "single_transformer_blocks", {"modulation.lin": "norm.linear"}),
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    _FINAL_MODULATION: "norm_out.linear",
}
_CHROMA = {
    **_FLUX_BLOCKS,
    **_ENDS,
    # Its modulations come from the layers of an approximator.
    **_blocks(
        "distilled_guidance_layer.layers",
        "distilled_guidance_layer.layers",
        {"in_layer": "linear_1", "out_layer": "linear_2"},
    ),
}
_FLUX2 = {
    **_blocks(
        "double_blocks",
        "transformer_blocks",
        {
            **_ATTENTION,
            "img_mlp.0": "ff.linear_in",
            "img_mlp.2": "ff.linear_out",
            "txt_mlp.0": "ff_context.linear_in",
            "txt_mlp.2": "ff_context.linear_out",
        },
    ),
    **_blocks(
        "single_blocks",
        "single_transformer_blocks",
        {"linear1": "attn.to_qkv_mlp_proj", "linear2": "attn.to_out"},
    ),
    **_ENDS,
    "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
    "guidance_in.in_layer": "time_guidance_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_guidance_embed.guidance_embedder.linear_2",
    "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
    "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
    "single_stream_modulation.lin": "single_stream_modulation.linear",
    _FINAL_MODULATION: "norm_out.linear",
}
_SD3 = {
    **_blocks(
        "joint_blocks",
        "transformer_blocks",
        {
            "x_block.attn.qkv": _QKV,
            "x_block.attn.proj": "attn.to_out.0",
            "x_block.attn2.qkv": "attn2.to_q attn2.to_k attn2.to_v",
            "x_block.attn2.proj": "attn2.to_out.0",
            "x_block.mlp.fc1": "ff.net.0.proj",
            "x_block.mlp.fc2": "ff.net.2",
            "x_block.adaLN_modulation.1": "norm1.linear",
            "context_block.attn.qkv": _CONTEXT_QKV,
            "context_block.attn.proj": "attn.to_add_out",
            "context_block.mlp.fc1": "ff_context.net.0.proj",
            "context_block.mlp.fc2": "ff_context.net.2",
            "context_block.adaLN_modulation.1": "norm1_context.linear",
        },
    ),
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "final_layer.linear": "proj_out",
    _FINAL_MODULATION: "norm_out.linear",
}
_Z_IMAGE_ATTENTION = {
    "attention.qkv": "attention.to_q attention.to_k attention.to_v",
    "attention.out": "attention.to_out.0",
}
_Z_IMAGE = {
    **_blocks("layers", "layers", _Z_IMAGE_ATTENTION),
    **_blocks("noise_refiner", "noise_refiner", _Z_IMAGE_ATTENTION),
    **_blocks("context_refiner", "context_refiner", _Z_IMAGE_ATTENTION),
    # Of patches of 2×2 pixels in one frame.
    "x_embedder": "all_x_embedder.2-1",
    "final_layer.linear": "all_final_layer.2-1.linear",
    _FINAL_MODULATION: "all_final_layer.2-1.adaLN_modulation.1",
}

KINDS = (
    Kind(
        "FLUX.2",
        mark="single_stream_modulation.linear",
        example="transformer_blocks.0.attn.to_q",
        originals=_FLUX2,
        shift_first=(_FINAL_MODULATION,),
    ),
    Kind(
        "Chroma",
        mark="distilled_guidance_layer.in_proj",
        example="transformer_blocks.0.attn.to_q",
        originals=_CHROMA,
    ),
    Kind(
        "FLUX.1",
        mark="x_embedder",
        example="transformer_blocks.0.attn.to_q",
        originals=_FLUX,
        shift_first=(_FINAL_MODULATION,),
    ),
    # Qwen-Image and ERNIE-Image were published by diffusers' names.
    Kind(
        "Qwen-Image",
        mark="transformer_blocks.0.img_mod.1",
        example="transformer_blocks.0.attn.to_q",
    ),
    Kind("ERNIE-Image", mark="final_linear", example="layers.0.self_attention.to_q"),
    Kind("Z-Image", mark="cap_embedder.1", example="layers.0.attention.to_q", originals=_Z_IMAGE),
    Kind(
        "Stable Diffusion 3",
        mark="context_embedder",
        example="transformer_blocks.0.attn.to_q",
        originals=_SD3,
        # The text's modulation in the last block has two vectors, too.
        shift_first=(_FINAL_MODULATION, "joint_blocks.*.context_block.adaLN_modulation.1"),
    ),
)

# How paths begin that tell for which model a LoRA was made; `.` and `_` count as one.
MADE_FOR = {
    r"distilled_guidance_layer": "Chroma",
    r"(double|single)_stream_modulation|time_guidance|.*to_qkv_mlp_proj": "FLUX.2",
    r"guidance_|vector_in|.*_mod(ulation)?_lin$": "FLUX.1",
    r"(double_blocks|single_blocks|single_transformer_blocks)_\d": "FLUX.1, FLUX.2 or Chroma",
    r"transformer_blocks_\d+_(img|txt)_(mod|mlp)_": "Qwen-Image",
    r"layers_\d+_self_attention_|layers_\d+_mlp_linear_fc2": "ERNIE-Image",
    r"(layers|noise_refiner|context_refiner)_\d+_(attention|feed_forward|adaLN)_": "Z-Image",
    r"joint_blocks_\d": "Stable Diffusion 3",
    r"(down|up|input|output|mid|middle)_blocks?_": "Stable Diffusion 1, 2 or XL",
    r"blocks_\d+_(self|cross)_attn_|patch_embedding": "Wan",
}
