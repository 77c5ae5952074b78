"""A small FLUX.2 klein with random weights, distilled and base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from transformers import Qwen3Config, Qwen3ForCausalLM

from tests.support.tiny_family import (
    STRENGTH,
    TinyFamily,
    byte_tokenizer,
    spread_norms,
    strengthen,
    tiny_vae,
)


def save_klein(folder: Path, *, distilled: bool = False, **changes: Any) -> Path:
    """A FLUX.2 klein.

    :param changes: to the transformer's configuration.
    """
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    text = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        # The last of them is not read.
        num_hidden_layers=28,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    config = {
        "in_channels": 64,
        "num_layers": 2,
        "num_single_layers": 4,
        "attention_head_dim": 32,
        "num_attention_heads": 4,
        "joint_attention_dim": 96,
        "axes_dims_rope": (8, 8, 8, 8),
        "guidance_embeds": False,
    }
    vae = tiny_vae()
    transformer = Flux2Transformer2DModel(**(config | changes))
    encoder = Qwen3ForCausalLM(text)
    strengthen(transformer, STRENGTH)
    for module in (transformer, encoder):
        spread_norms(module)
    Flux2KleinPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        is_distilled=distilled,
    ).save_pretrained(folder)
    return folder


BROKEN_KLEIN = (
    ("tokenizer/chat_template.jinja", {}, "no chat template, neither as"),
    ("text_encoder/config.json", {"num_hidden_layers": 20}, "expected at least 27, whose outputs"),
    ("text_encoder/config.json", {"hidden_size": 16}, "transformer joint_attention_dim = 96"),
    ("transformer/config.json", {"guidance_embeds": True}, "guidance_embeds = true"),
    ("transformer/config.json", {"axes_dims_rope": [8, 8, 8, 16]}, "expected four even numbers"),
    ("transformer/config.json", {"num_single_layers": 5}, "needs 4 tensors"),
    ("vae/config.json", {"patch_size": [1, 1]}, "patch_size"),
    ("model_index.json", {"_class_name": "Flux2Pipeline"}, "paints Flux2Pipeline with"),
)
KLEIN_ORIGINALS = {
    "double_blocks.1.img_attn.qkv": [
        f"transformer_blocks.1.attn.{name}" for name in ("to_q", "to_k", "to_v")
    ],
    "double_blocks.0.txt_attn.proj": ["transformer_blocks.0.attn.to_add_out"],
    "double_blocks.0.txt_mlp.0": ["transformer_blocks.0.ff_context.linear_in"],
    "single_blocks.3.linear1": ["single_transformer_blocks.3.attn.to_qkv_mlp_proj"],
    "single_blocks.3.linear2": ["single_transformer_blocks.3.attn.to_out"],
    "single_stream_modulation.lin": ["single_stream_modulation.linear"],
    "final_layer.adaLN_modulation.1": ["norm_out.linear"],
    "time_in.out_layer": ["time_guidance_embed.timestep_embedder.linear_2"],
}
KLEIN = TinyFamily(
    save_klein,
    # Of each double block two stacks of q, k and v, two outputs and two MLPs; two of a single one.
    linears=2 * 8 + 4 * 2,
    kinds=2,
    contrasts=True,
    broken=BROKEN_KLEIN,
    layers=27,
    originals=KLEIN_ORIGINALS,
)
