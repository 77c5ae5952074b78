"""What the configurations of Qwen3, Qwen2.5-VL and Mistral share: language models as text encoders.

Each is a stack of equal layers, of an attention with shared keys and values and a gated MLP. A
family may read the output of an inner layer: what comes after that layer is not loaded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Annotated

from pydantic import Field

from batchgen.model.components.config import Activation, Blocks, Decimal, Size, TransformersConfig
from batchgen.model.components.tensors import Tensors, linear, matrix


class LanguageModel(TransformersConfig):
    """Keys that all of these configurations have."""

    vocab_size: Size
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Blocks
    num_attention_heads: Size
    num_key_value_heads: Size
    max_position_embeddings: Size = 32768
    hidden_act: Activation = "silu"
    rms_norm_eps: Annotated[Decimal, Field(gt=0)] = 1e-6

    def _contradictions(self) -> Iterator[str]:
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if heads % groups:
            yield f"num_key_value_heads = {groups}: expected a divisor of {heads} attention heads"

    def is_beyond(self, name: str, layers: int) -> bool:
        """Whether a tensor belongs to a layer after the first `layers` ones."""
        layer = re.match(r"layers\.(\d+)\.", name)
        return layer is not None and layers <= int(layer[1]) < self.num_hidden_layers

    def beginning(
        self, layers: int, head: int, *, biases: Collection[str] = (), norms: bool = False
    ) -> Tensors:
        """The tensors of the token embedding and of the first `layers` layers.

        :param head: values of an attention head.
        :param biases: which of an attention's linears, "q", "k", "v" and "o", have a bias.
        :param norms: whether queries and keys are normalised.
        """
        width, inner = self.hidden_size, self.intermediate_size
        heads, groups = (n * head for n in (self.num_attention_heads, self.num_key_value_heads))
        sides = {"q": (heads, width), "k": (groups, width), "v": (groups, width)}
        sides["o"] = width, heads
        yield "embed_tokens.weight", (self.vocab_size, width)
        for number in range(layers):
            layer = f"layers.{number}"
            for part, (out, into) in sides.items():
                kind = linear if part in biases else matrix
                yield from kind(f"{layer}.self_attn.{part}_proj", out, into)
            for part in ("q", "k") if norms else ():
                yield f"{layer}.self_attn.{part}_norm.weight", (head,)
            yield from matrix(f"{layer}.mlp.gate_proj", inner, width)
            yield from matrix(f"{layer}.mlp.up_proj", inner, width)
            yield from matrix(f"{layer}.mlp.down_proj", width, inner)
            for norm in ("input_layernorm", "post_attention_layernorm"):
                yield f"{layer}.{norm}.weight", (width,)
