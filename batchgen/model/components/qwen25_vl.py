"""Qwen2.5-VL, a language model that sees, as a text encoder: its language part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from batchgen.model.components.config import Component, Decimal, Size
from batchgen.model.components.language_model import LanguageModel
from batchgen.model.components.tensors import Tensors


def language_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a `config.json` says of the language part.

    Older files say it beside all else. Newer ones have a table for it, which then counts.
    """
    table = content.get("text_config")
    merged = dict(content) | (table if isinstance(table, dict) else {})
    # The older name is read first where it is given.
    rotary = merged.get("rope_scaling") or merged.get("rope_parameters")
    return merged | {"rope_parameters": rotary}


class _Rotary(BaseModel):
    """Rotary positions of three axes. Those of a text's tokens are equal."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    # Angles of each axis.
    mrope_section: Annotated[tuple[Size, Size, Size], Field(strict=False)]
    rope_type: Literal["default", "mrope"] = "default"


class Qwen25VL(LanguageModel):
    """Of the language part of transformers' `Qwen2_5_VLForConditionalGeneration`."""

    rms_norm_eps: Annotated[Decimal, Field(gt=0)] = 1e-5
    use_sliding_window: Literal[False] = False
    rope_parameters: _Rotary

    @model_validator(mode="before")
    @classmethod
    def _language(cls, content: Any) -> Any:
        return language_settings(content) if isinstance(content, dict) else content

    @property
    def head_dim(self) -> int:
        """Values of an attention head."""
        return self.hidden_size // self.num_attention_heads

    def _contradictions(self) -> Iterator[str]:
        yield from super()._contradictions()
        heads = self.num_attention_heads
        if self.hidden_size % heads:
            yield f"hidden_size = {self.hidden_size}: expected a multiple of {heads} heads"
        if 2 * sum(self.rope_parameters.mrope_section) != self.head_dim:
            sections = list(self.rope_parameters.mrope_section)
            expected = f"three numbers whose sum is half of a head, {self.head_dim} / 2"
            yield f"mrope_section = {sections}: expected {expected}"

    def tensors(self) -> Tensors:
        """See `Config`. What sees, and what predicts the next token, is not read."""
        yield from self.beginning(self.num_hidden_layers, self.head_dim, biases="qkv")
        yield "norm.weight", (self.hidden_size,)


QWEN25_VL = Component("transformers", "Qwen2_5_VLForConditionalGeneration", Qwen25VL)
