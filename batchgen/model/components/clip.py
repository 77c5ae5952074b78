"""CLIP's text encoder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from batchgen.model.components.config import (
    Activation,
    Blocks,
    Component,
    Decimal,
    Number,
    Size,
    TransformersConfig,
)
from batchgen.model.components.tensors import Tensors, linear, normalised


class Clip(TransformersConfig):
    """Of transformers' `CLIPTextModel`."""

    vocab_size: Size
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Blocks
    num_attention_heads: Size
    max_position_embeddings: Size = 77
    hidden_act: Activation = "quick_gelu"
    layer_norm_eps: Annotated[Decimal, Field(gt=0)] = 1e-5
    # Of training. The projection is used by `CLIPTextModelWithProjection` alone.
    attention_dropout: Number | None = 0.0
    initializer_range: Decimal = 0.02
    projection_dim: int | None = None

    def _contradictions(self) -> Iterator[str]:
        width, heads = self.hidden_size, self.num_attention_heads
        if width % heads:
            yield f"num_attention_heads = {heads}: expected a divisor of hidden_size = {width}"

    def tensors(self) -> Tensors:
        """See `Config`."""
        width = self.hidden_size
        yield "embeddings.token_embedding.weight", (self.vocab_size, width)
        yield "embeddings.position_embedding.weight", (self.max_position_embeddings, width)
        for layer in range(self.num_hidden_layers):
            name = f"encoder.layers.{layer}"
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                yield from linear(f"{name}.self_attn.{part}", width, width)
            for part in ("layer_norm1", "layer_norm2"):
                yield from normalised(f"{name}.{part}", width)
            yield from linear(f"{name}.mlp.fc1", self.intermediate_size, width)
            yield from linear(f"{name}.mlp.fc2", width, self.intermediate_size)
        yield from normalised("final_layer_norm", width)


class ClipWithProjection(Clip):
    """Of transformers' `CLIPTextModelWithProjection`."""

    projection_dim: Size

    def tensors(self) -> Tensors:
        """See `Config`."""
        yield from super().tensors()
        yield "text_projection.weight", (self.projection_dim, self.hidden_size)


CLIP = Component(
    "transformers", "CLIPTextModel", Clip, ("CLIPTextModelWithProjection", "CLIPModel")
)
PROJECTED_CLIP = Component(
    "transformers", "CLIPTextModelWithProjection", ClipWithProjection, ("CLIPModel",)
)
