"""Stable Diffusion 3: its transformer's configuration and tensors, and what planning must know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from batchgen.model.components.autoencoder import VAE
from batchgen.model.components.clip import PROJECTED_CLIP
from batchgen.model.components.config import Component, Size, Transformer, wrong_outputs
from batchgen.model.components.t5 import T5_ENCODER
from batchgen.model.components.tensors import Tensors, convolution, linear, under
from batchgen.model.components.tokenizer import CLIP_TOKENIZER, T5_TOKENIZER
from batchgen.model.families.facts import POOLED, TEXT, FamilyFacts
from batchgen.model.families.mmdit import embedded_conditions, joint_block


class SD3Transformer(Transformer):
    """Of diffusers' `SD3Transformer2DModel`."""

    # Width of the pooled text.
    pooled_projection_dim: Size
    sample_size: Size = 128
    patch_size: Annotated[int, Field(ge=1, le=64)] = 2
    out_channels: Size | None = 16
    caption_projection_dim: Size
    pos_embed_max_size: Annotated[int, Field(ge=1, le=4096)]
    dual_attention_layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    qk_norm: Literal["rms_norm"] | None = None

    @property
    def most_side(self) -> int:
        """See `AnyTransformer`."""
        return self.pos_embed_max_size

    def _contradictions(self) -> Iterator[str]:
        if self.caption_projection_dim != self.width:
            yield (
                f"caption_projection_dim = {self.caption_projection_dim}: expected "
                f"num_attention_heads × attention_head_dim = {self.width}"
            )
        yield from wrong_outputs(self.out_channels, self.in_channels)
        if any(layer >= self.num_layers for layer in self.dual_attention_layers):
            yield (
                f"dual_attention_layers = {list(self.dual_attention_layers)}: expected numbers "
                f"below num_layers = {self.num_layers}"
            )

    def tensors(self) -> Tensors:
        """See `Config`."""
        width, head, patch = self.width, self.attention_head_dim, self.patch_size
        yield "pos_embed.pos_embed", (1, self.pos_embed_max_size**2, width)
        yield from convolution("pos_embed.proj", width, self.in_channels, patch)
        yield from embedded_conditions(width, self.pooled_projection_dim, guidance=False)
        yield from linear("context_embedder", width, self.joint_attention_dim)
        for block in range(self.num_layers):
            tensors = joint_block(
                width,
                head,
                norms=self.qk_norm is not None,
                dual=block in self.dual_attention_layers,
                last=block == self.num_layers - 1,
            )
            yield from under(f"transformer_blocks.{block}", tensors)
        yield from linear("norm_out.linear", 2 * width, width)
        yield from linear("proj_out", patch**2 * self.in_channels, width)


def _fits(configs: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """The pooled text is the projections of both CLIPs, side by side."""
    transformer, clips = (
        configs["transformer"],
        [configs["text_encoder"], configs["text_encoder_2"]],
    )
    yield "transformer in_channels", transformer.in_channels, configs["vae"].latent_channels
    yield TEXT, transformer.joint_attention_dim, configs["text_encoder_3"].d_model
    projected = sum(clip.projection_dim for clip in clips)
    yield POOLED, transformer.pooled_projection_dim, projected


def _step_flops(config: dict[str, Any], image_tokens: int, text_tokens: int) -> float:
    """FLOP of a denoising step of Stable Diffusion 3: as FLUX.1's double blocks, with two changes.

    The last block has no text output, which saves 9·D² weights for each text token (output and
    MLP). Blocks with dual attention (3.5 medium) have a second attention over the image tokens:
    4·D² weights for each of them (q, k, v, output).

    Sources: Esser et al. 2024, https://arxiv.org/abs/2403.03206; `mmditx.py` of
    https://github.com/Stability-AI/sd3.5.
    """
    width = config["num_attention_heads"] * config["attention_head_dim"]
    layers, dual = config["num_layers"], len(config.get("dual_attention_layers") or ())
    tokens = image_tokens + text_tokens
    weights = 12 * layers * tokens - 9 * text_tokens + 4 * dual * image_tokens
    return float(2 * weights * width**2 + 4 * (layers * tokens**2 + dual * image_tokens**2) * width)


SD3 = FamilyFacts(
    "sd3",
    {
        "transformer": Component("diffusers", "SD3Transformer2DModel", SD3Transformer),
        "vae": VAE,
        "text_encoder": PROJECTED_CLIP,
        "text_encoder_2": PROJECTED_CLIP,
        "text_encoder_3": T5_ENCODER,
    },
    {"tokenizer": CLIP_TOKENIZER, "tokenizer_2": CLIP_TOKENIZER, "tokenizer_3": T5_TOKENIZER},
    _fits,
    patch=2,
    step_flops=_step_flops,
    activations=16,
    clip_tokens=77,
    contrasts=True,
)
