"""FLUX.1: its transformer's configuration and tensors, and what planning must know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from batchgen.model.components.autoencoder import VAE
from batchgen.model.components.clip import CLIP
from batchgen.model.components.config import (
    MOST_BLOCKS,
    Component,
    Size,
    Transformer,
    wrong_axes,
    wrong_outputs,
)
from batchgen.model.components.t5 import T5_ENCODER
from batchgen.model.components.tensors import Tensors, linear, under
from batchgen.model.components.tokenizer import CLIP_TOKENIZER, T5_TOKENIZER
from batchgen.model.families.facts import POOLED, TEXT, FamilyFacts
from batchgen.model.families.mmdit import embedded_conditions, joint_block, single_block


class FluxTransformer(Transformer):
    """Of diffusers' `FluxTransformer2DModel`."""

    # Width of the pooled text.
    pooled_projection_dim: Size
    patch_size: Literal[1] = 1
    out_channels: Size | None = None
    num_single_layers: Annotated[int, Field(ge=0, le=MOST_BLOCKS)]
    guidance_embeds: bool = False
    axes_dims_rope: tuple[Size, Size, Size] = (16, 56, 56)

    def _contradictions(self) -> Iterator[str]:
        yield from wrong_axes(self.axes_dims_rope, self.attention_head_dim, "three")
        yield from wrong_outputs(self.out_channels, self.in_channels)

    def tensors(self) -> Tensors:
        """See `Config`."""
        width, head = self.width, self.attention_head_dim
        yield from embedded_conditions(
            width, self.pooled_projection_dim, guidance=self.guidance_embeds
        )
        yield from linear("context_embedder", width, self.joint_attention_dim)
        yield from linear("x_embedder", width, self.in_channels)
        for block in range(self.num_layers):
            yield from under(f"transformer_blocks.{block}", joint_block(width, head, norms=True))
        for block in range(self.num_single_layers):
            yield from under(f"single_transformer_blocks.{block}", single_block(width, head))
        yield from linear("norm_out.linear", 2 * width, width)
        yield from linear("proj_out", self.in_channels, width)


def _fits(configs: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """A token is 2×2 latent pixels; the pooled text is the CLIP's last hidden state."""
    transformer = configs["transformer"]
    yield "transformer in_channels", transformer.in_channels, 4 * configs["vae"].latent_channels
    yield TEXT, transformer.joint_attention_dim, configs["text_encoder_2"].d_model
    yield POOLED, transformer.pooled_projection_dim, configs["text_encoder"].hidden_size


def flux_step_flops(config: dict[str, Any], image_tokens: int, text_tokens: int) -> float:
    """FLOP of a denoising step of FLUX.1 or Chroma: L · (24·S·D² + 4·S²·D).

    Each of the L blocks, double or single, has 12·D² weights for each of the S tokens (q, k, v,
    output, and an MLP four times as wide), and a multiply-add is two FLOP. Scores and weighted
    values of the attention take 2·S²·D each.

    Sources: `src/flux/modules/layers.py` of https://github.com/black-forest-labs/flux; the counting
    is that of Kaplan et al. 2020, https://arxiv.org/abs/2001.08361, section 2.1.
    """
    width = config["num_attention_heads"] * config["attention_head_dim"]
    layers = config["num_layers"] + config["num_single_layers"]
    tokens = image_tokens + text_tokens
    return float(layers * (2 * 12 * width**2 * tokens + 4 * tokens**2 * width))


FLUX = FamilyFacts(
    "flux",
    {
        "transformer": Component("diffusers", "FluxTransformer2DModel", FluxTransformer),
        "vae": VAE,
        "text_encoder": CLIP,
        "text_encoder_2": T5_ENCODER,
    },
    {"tokenizer": CLIP_TOKENIZER, "tokenizer_2": T5_TOKENIZER},
    _fits,
    patch=2,
    step_flops=flux_step_flops,
    activations=20,
)
