"""Qwen3, a language model, as a text encoder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from batchgen.model.components.config import Activation, Blocks, Decimal, Size, TransformersConfig
from batchgen.model.components.tensors import Tensors, linear, matrix


class Qwen3(TransformersConfig):
    """Of transformers' `Qwen3ForCausalLM`."""

    vocab_size: Size
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Blocks
    num_attention_heads: Size
    num_key_value_heads: Size
    head_dim: Annotated[Size, Field(multiple_of=2)]
    max_position_embeddings: Size = 32768
    hidden_act: Activation = "silu"
    rms_norm_eps: Annotated[Decimal, Field(gt=0)] = 1e-6
    attention_bias: bool = False
    use_sliding_window: Literal[False] = False

    @property
    def used_layers(self) -> int:
        """Layers whose output the family reads, and those before them."""
        return self.num_hidden_layers

    def comes_after(self, name: str) -> bool:
        """Whether a tensor comes after the last layer that is used.

        These are the layers behind it, their norm, and what predicts the next token.
        """
        if layer := re.match(r"layers\.(\d+)\.", name):
            return self.used_layers <= int(layer[1]) < self.num_hidden_layers
        whole = self.used_layers == self.num_hidden_layers
        return name == "lm_head.weight" or (name == "norm.weight" and not whole)

    def _contradictions(self) -> Iterator[str]:
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if heads % groups:
            yield f"num_key_value_heads = {groups}: expected a divisor of {heads} attention heads"

    def tensors(self) -> Tensors:
        """The layers that are used. All have the same tensors."""
        width, heads = self.hidden_size, self.num_attention_heads * self.head_dim
        groups = self.num_key_value_heads * self.head_dim
        bias = self.attention_bias
        yield "embed_tokens.weight", (self.vocab_size, width)
        for number in range(self.used_layers):
            layer = f"layers.{number}"
            for name, out, into in (
                ("q_proj", heads, width),
                ("k_proj", groups, width),
                ("v_proj", groups, width),
                ("o_proj", width, heads),
            ):
                yield from (linear if bias else matrix)(f"{layer}.self_attn.{name}", out, into)
            for name in ("q_norm", "k_norm"):
                yield f"{layer}.self_attn.{name}.weight", (self.head_dim,)
            for name in ("gate_proj", "up_proj"):
                yield from matrix(f"{layer}.mlp.{name}", self.intermediate_size, width)
            yield from matrix(f"{layer}.mlp.down_proj", width, self.intermediate_size)
            for name in ("input_layernorm", "post_attention_layernorm"):
                yield f"{layer}.{name}.weight", (width,)
        if self.used_layers == self.num_hidden_layers:
            yield "norm.weight", (width,)
