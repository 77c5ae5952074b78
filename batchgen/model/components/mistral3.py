"""Mistral3, a language model that reads pictures too, as a text encoder.

Families read its language model alone, and not all layers of it. Versions of transformers have put
the language model under several names; `contents.py` leaves them out.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from batchgen.model.components.config import Size, TransformersConfig
from batchgen.model.components.language_model import LanguageModel
from batchgen.model.components.tensors import Tensors


class Mistral(LanguageModel):
    """Of transformers' `MistralModel`, or of its `Ministral3Model`, which has the same tensors."""

    model_type: Literal["mistral", "ministral3"] = "mistral"
    head_dim: Annotated[Size, Field(multiple_of=2)]
    max_position_embeddings: Size = 131072
    sliding_window: Size | None = None


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
        unread = ("norm", "lm_head", "vision_tower", "multi_modal_projector")
        beyond = self.text_config.is_beyond(name, self.used_layers)
        return beyond or name.split(".")[0] in unread

    def tensors(self) -> Tensors:
        """Those of the language model's layers that are used, and of what is before them."""
        return self.text_config.beginning(self.used_layers, self.text_config.head_dim)
