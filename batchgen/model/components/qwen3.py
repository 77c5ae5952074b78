"""Qwen3, a language model, as a text encoder."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from batchgen.model.components.config import Size
from batchgen.model.components.language_model import LanguageModel
from batchgen.model.components.tensors import Tensors


class Qwen3(LanguageModel):
    """Of transformers' `Qwen3ForCausalLM`."""

    head_dim: Annotated[Size, Field(multiple_of=2)]
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
        whole = self.used_layers == self.num_hidden_layers
        unread = {"lm_head.weight"} if whole else {"lm_head.weight", "norm.weight"}
        return name in unread or self.is_beyond(name, self.used_layers)

    def tensors(self) -> Tensors:
        """The layers that are used. All have the same tensors."""
        biases = "qkvo" if self.attention_bias else ""
        yield from self.beginning(self.used_layers, self.head_dim, biases=biases, norms=True)
        if self.used_layers == self.num_hidden_layers:
            yield "norm.weight", (self.hidden_size,)
