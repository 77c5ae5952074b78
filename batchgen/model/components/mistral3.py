"""Mistral3, a language model that reads pictures too, as a text encoder.

Families read its language model alone, and not all layers of it. Versions of transformers have put
the language model under several names; `contents.py` leaves them out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from batchgen.model.components.config import Activation, Blocks, Decimal, Size, TransformersConfig
from batchgen.model.components.tensors import Tensors, matrix


class Mistral(TransformersConfig):
    """Of transformers' `MistralModel`, or of its `Ministral3Model`, which has the same tensors."""

    model_type: Literal["mistral", "ministral3"] = "mistral"
    vocab_size: Size
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Blocks
    num_attention_heads: Size
    num_key_value_heads: Size
    head_dim: Annotated[Size, Field(multiple_of=2)]
    max_position_embeddings: Size = 131072
    hidden_act: Activation = "silu"
    rms_norm_eps: Annotated[Decimal, Field(gt=0)] = 1e-6
    sliding_window: Size | None = None

    def _contradictions(self) -> Iterator[str]:
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if heads % groups:
            yield f"num_key_value_heads = {groups}: expected a divisor of {heads} attention heads"


class Mistral3(TransformersConfig):
    """Of transformers' `Mistral3Model`."""

    text_config: Mistral

    @property
    def vocab_size(self) -> int:
        """Tokens that have a vector."""
        return self.text_config.vocab_size

    @property
    def hidden_size(self) -> int:
        """Values of a token."""
        return self.text_config.hidden_size

    @property
    def used_layers(self) -> int:
        """Layers whose output the family reads, and those before them."""
        return self.text_config.num_hidden_layers

    def comes_after(self, name: str) -> bool:
        """Whether a tensor comes after the last layer that is used, or is there for pictures.

        The first are the layers behind it, their norm, and what predicts the next token.
        """
        if layer := re.match(r"layers\.(\d+)\.", name):
            return self.used_layers <= int(layer[1]) < self.text_config.num_hidden_layers
        first = name.split(".")[0]
        return first in ("norm", "lm_head", "vision_tower", "multi_modal_projector")

    def tensors(self) -> Tensors:
        """Those of the language model's layers that are used, and of what is before them."""
        text = self.text_config
        width = text.hidden_size
        heads, groups = (
            count * text.head_dim for count in (text.num_attention_heads, text.num_key_value_heads)
        )
        yield "embed_tokens.weight", (text.vocab_size, width)
        for number in range(self.used_layers):
            layer = f"layers.{number}"
            for name, out, into in (
                ("self_attn.q_proj", heads, width),
                ("self_attn.k_proj", groups, width),
                ("self_attn.v_proj", groups, width),
                ("self_attn.o_proj", width, heads),
                ("mlp.gate_proj", text.intermediate_size, width),
                ("mlp.up_proj", text.intermediate_size, width),
                ("mlp.down_proj", width, text.intermediate_size),
            ):
                yield from matrix(f"{layer}.{name}", out, into)
            for name in ("input_layernorm", "post_attention_layernorm"):
                yield f"{layer}.{name}.weight", (width,)
