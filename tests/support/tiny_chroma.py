"""A small Chroma with random weights, whose tokenizer has the files of the published one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    ChromaPipeline,
    ChromaTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)
from transformers import AutoTokenizer, T5Config, T5EncoderModel

from batchgen.manifest import Picture
from tests.support.t5_tokenizer import save_t5_tokenizer
from tests.support.tiny_families import TEXT_TOKENS, spread_norms, strengthen
from tests.support.tiny_t5_families import T5Family


def save_chroma(folder: Path, **changes: Any) -> Path:
    """A Chroma.

    :param changes: to the transformer's configuration.
    """
    torch.manual_seed(0)
    tokens = save_t5_tokenizer(folder / "tokenizer")
    config = {
        "in_channels": 64,
        "num_layers": 2,
        "num_single_layers": 3,
        "attention_head_dim": 32,
        "num_attention_heads": 4,
        "joint_attention_dim": 32,
        "axes_dims_rope": (8, 12, 12),
        "approximator_num_channels": 64,
        "approximator_hidden_dim": 48,
        "approximator_layers": 2,
    }
    transformer = ChromaTransformer2DModel(**(config | changes))
    # Not the approximator: velocities would leap from step to step, and no cache would skip one.
    for blocks in (transformer.transformer_blocks, transformer.single_transformer_blocks):
        strengthen(blocks, 1.5)
    spread_norms(transformer)
    text = T5Config(
        vocab_size=tokens,
        d_model=32,
        d_kv=16,
        d_ff=64,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.3611,
        shift_factor=0.1159,
    )
    ChromaPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        text_encoder=T5EncoderModel(text),
        tokenizer=AutoTokenizer.from_pretrained(folder / "tokenizer"),
    ).save_pretrained(folder)
    # The pipeline writes the tokenizer as transformers does today.
    for file in (folder / "tokenizer").iterdir():
        file.unlink()
    save_t5_tokenizer(folder / "tokenizer")
    # FLUX.1's, which published folders repeat.
    path = folder / "transformer" / "config.json"
    repeated = {"guidance_embeds": False, "pooled_projection_dim": 768}
    path.write_text(json.dumps(json.loads(path.read_text()) | repeated))
    return folder


@dataclass(frozen=True)
class TinyChroma(T5Family):
    """Chroma, whose stock pipeline masks padding only if it is told how."""

    def stock(self, pipeline: Any, picture: Picture, output_type: str = "latent") -> Any:
        """The pipeline with embedded prompts and masks of truth values, as the model was trained.

        With prompts it would add its masks to the scores: `engine/families/chroma.py`.
        """
        (own, mask), (other, other_mask) = (
            pipeline._get_t5_prompt_embeds(prompt, max_sequence_length=TEXT_TOKENS)
            for prompt in (picture.prompt, picture.negative_prompt)
        )
        return pipeline(
            prompt_embeds=own,
            prompt_attention_mask=mask.bool(),
            negative_prompt_embeds=other,
            negative_prompt_attention_mask=other_mask.bool(),
            guidance_scale=picture.guidance,
            width=picture.width,
            height=picture.height,
            num_inference_steps=picture.steps,
            generator=[torch.Generator().manual_seed(picture.seed)],
            output_type=output_type,
        ).images


BROKEN = (
    ("tokenizer/spiece.model", {}, "tokenizer.json: missing"),
    ("text_encoder/config.json", {"d_model": 16}, "transformer joint_attention_dim = 32"),
    ("transformer/config.json", {"guidance_embeds": True}, "guidance_embeds = true"),
    ("transformer/config.json", {"axes_dims_rope": [8, 8, 8]}, "expected three even numbers"),
    ("transformer/config.json", {"approximator_layers": 3}, "needs 5 tensors"),
    ("transformer/config.json", {"approximator_num_channels": 36}, "multiple of 8"),
    ("model_index.json", {"_class_name": "ChromaInpaintPipeline"}, "has no family here"),
    ("model_index.json", {"text_encoder": [None, None]}, "does not paint without T5"),
)
ORIGINALS = {
    "double_blocks.1.img_attn.qkv": [
        f"transformer_blocks.1.attn.{name}" for name in ("to_q", "to_k", "to_v")
    ],
    "double_blocks.0.txt_mlp.2": ["transformer_blocks.0.ff_context.net.2"],
    "single_blocks.2.linear1": [
        *(f"single_transformer_blocks.2.attn.{name}" for name in ("to_q", "to_k", "to_v")),
        "single_transformer_blocks.2.proj_mlp",
    ],
    "single_blocks.0.linear2": ["single_transformer_blocks.0.proj_out"],
    "distilled_guidance_layer.in_proj": ["distilled_guidance_layer.in_proj"],
    "distilled_guidance_layer.layers.1.in_layer": ["distilled_guidance_layer.layers.1.linear_1"],
    "distilled_guidance_layer.layers.0.out_layer": ["distilled_guidance_layer.layers.0.linear_2"],
    "txt_in": ["context_embedder"],
    "final_layer.linear": ["proj_out"],
}
CHROMA = TinyChroma(
    save_chroma,
    # Of each double block two stacks of q, k and v, two outputs and two MLPs; two of a single one.
    linears=2 * 8 + 3 * 2,
    kinds=2,
    contrasts=True,
    broken=BROKEN,
    layers=0,
    originals=ORIGINALS,
    word="a ",
)
