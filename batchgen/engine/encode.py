"""Prompts → text embeddings: a group at once, equal prompts once."""

from __future__ import annotations

from collections.abc import Sequence

from batchgen.engine.family import Family, Text


def encode_prompts(family: Family, prompts: Sequence[str]) -> Text:
    """Text of the prompts, a row each, in their order.

    The distinct ones go through the text encoders as one batch: a group of pictures of one prompt, or sharing a negative, encodes it once.
    """
    distinct = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
    return family.encode(list(distinct)).rows([distinct[prompt] for prompt in prompts])
