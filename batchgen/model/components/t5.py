"""T5's encoder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from batchgen.model.components.config import (
    MOST_VALUES,
    Activation,
    Blocks,
    Component,
    Decimal,
    Number,
    Size,
    TransformersConfig,
)
from batchgen.model.components.tensors import Tensors


class T5(TransformersConfig):
    """Of transformers' `T5EncoderModel`."""

    vocab_size: Size
    d_model: Size
    d_kv: Size
    d_ff: Size
    num_layers: Blocks
    num_heads: Size
    relative_attention_num_buckets: Annotated[int, Field(ge=4, le=MOST_VALUES, multiple_of=2)] = 32
    relative_attention_max_distance: Annotated[int, Field(ge=2, le=MOST_VALUES)] = 128
    layer_norm_epsilon: Annotated[Decimal, Field(gt=0)] = 1e-6
    feed_forward_proj: Literal["relu", "gelu", "silu", "gated-relu", "gated-gelu", "gated-silu"] = (
        "relu"
    )
    # If it stands there, it goes before the name in `feed_forward_proj`.
    dense_act_fn: Activation | None = None
    is_decoder: Literal[False] = False
    # Of the decoder, and of training.
    num_decoder_layers: int | None = None
    use_cache: bool = False
    dropout_rate: Number = 0.0
    classifier_dropout: Number = 0.0

    def tensors(self) -> Tensors:
        """See `Config`."""
        width, inner = self.d_model, self.num_heads * self.d_kv
        gated = self.feed_forward_proj.startswith("gated-")
        yield "shared.weight", (self.vocab_size, width)
        for block in range(self.num_layers):
            attention, mlp = (f"encoder.block.{block}.layer.{layer}" for layer in range(2))
            for part in ("q", "k", "v"):
                yield f"{attention}.SelfAttention.{part}.weight", (inner, width)
            yield f"{attention}.SelfAttention.o.weight", (width, inner)
            if block == 0:
                shape = self.relative_attention_num_buckets, self.num_heads
                yield f"{attention}.SelfAttention.relative_attention_bias.weight", shape
            yield f"{attention}.layer_norm.weight", (width,)
            for part in ("wi_0", "wi_1") if gated else ("wi",):
                yield f"{mlp}.DenseReluDense.{part}.weight", (self.d_ff, width)
            yield f"{mlp}.DenseReluDense.wo.weight", (width, self.d_ff)
            yield f"{mlp}.layer_norm.weight", (width,)
        yield "encoder.final_layer_norm.weight", (width,)


T5_ENCODER = Component(
    "transformers",
    "T5EncoderModel",
    T5,
    ("T5ForConditionalGeneration", "T5Model", "T5WithLMHeadModel"),
)
