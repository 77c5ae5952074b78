"""Chroma: its transformer's configuration and tensors, and what planning must know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from batchgen.model.components.autoencoder import VAE
from batchgen.model.components.config import (
    MOST_BLOCKS,
    Blocks,
    Component,
    Size,
    Transformer,
    wrong_axes,
    wrong_outputs,
)
from batchgen.model.components.t5 import T5_ENCODER
from batchgen.model.components.tensors import Tensors, linear, under
from batchgen.model.components.tokenizer import T5_TOKENIZER
from batchgen.model.families.facts import TEXT, FamilyFacts
from batchgen.model.families.flux import flux_step_flops
from batchgen.model.families.mmdit import joint_block, single_block

# Folder of the part that computes the modulations of all blocks, among those of the transformer.
APPROXIMATOR = "distilled_guidance_layer"


class ChromaTransformer(Transformer):
    """Of diffusers' `ChromaTransformer2DModel`."""

    patch_size: Literal[1] = 1
    out_channels: Size | None = None
    num_single_layers: Annotated[int, Field(ge=0, le=MOST_BLOCKS)]
    axes_dims_rope: tuple[Size, Size, Size] = (16, 56, 56)
    # Values that the approximator is told: of time a quarter, of a guidance of 0 a quarter, and of
    # a vector's number the rest.
    approximator_num_channels: Annotated[Size, Field(multiple_of=8)] = 64
    approximator_hidden_dim: Size = 5120
    approximator_layers: Blocks = 5
    # FLUX.1's, which published folders repeat and diffusers does not read. Chroma has no embedded
    # guidance and no pooled text.
    guidance_embeds: Literal[False] = False
    pooled_projection_dim: Size | None = None

    def _contradictions(self) -> Iterator[str]:
        yield from wrong_axes(self.axes_dims_rope, self.attention_head_dim, "three")
        yield from wrong_outputs(self.out_channels, self.in_channels)

    def tensors(self) -> Tensors:
        """See `Config`."""
        width, head, hidden = self.width, self.attention_head_dim, self.approximator_hidden_dim
        yield from linear(f"{APPROXIMATOR}.in_proj", hidden, self.approximator_num_channels)
        for layer in range(self.approximator_layers):
            yield from linear(f"{APPROXIMATOR}.layers.{layer}.linear_1", hidden, hidden)
            yield from linear(f"{APPROXIMATOR}.layers.{layer}.linear_2", hidden, hidden)
            yield f"{APPROXIMATOR}.norms.{layer}.weight", (hidden,)
        yield from linear(f"{APPROXIMATOR}.out_proj", width, hidden)
        yield from linear("context_embedder", width, self.joint_attention_dim)
        yield from linear("x_embedder", width, self.in_channels)
        for block in range(self.num_layers):
            tensors = joint_block(width, head, norms=True, modulated=False)
            yield from under(f"transformer_blocks.{block}", tensors)
        for block in range(self.num_single_layers):
            tensors = single_block(width, head, modulated=False)
            yield from under(f"single_transformer_blocks.{block}", tensors)
        yield from linear("proj_out", self.in_channels, width)


def _fits(configs: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """A token is 2×2 latent pixels."""
    transformer = configs["transformer"]
    yield "transformer in_channels", transformer.in_channels, 4 * configs["vae"].latent_channels
    yield TEXT, transformer.joint_attention_dim, configs["text_encoder"].d_model


def _modulations(config: dict[str, Any]) -> int:
    """Shift, scale and gate, twice for image and text of double blocks; shift and scale at last."""
    vectors = 12 * config["num_layers"] + 3 * config["num_single_layers"] + 2
    return int(vectors * config["num_attention_heads"] * config["attention_head_dim"])


CHROMA = FamilyFacts(
    "chroma",
    {
        "transformer": Component("diffusers", "ChromaTransformer2DModel", ChromaTransformer),
        "vae": VAE,
        "text_encoder": T5_ENCODER,
    },
    {"tokenizer": T5_TOKENIZER},
    _fits,
    patch=2,
    step_flops=flux_step_flops,
    activations=20,
    contrasts=True,
    modulator=APPROXIMATOR,
    modulations=_modulations,
)
