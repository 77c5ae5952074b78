"""Prompts → text embeddings: a group at once, equal prompts once."""

from __future__ import annotations

from collections.abc import Sequence

from batchgen.engine.family import Family, Text


def encode_prompts(family: Family, prompts: Sequence[str], negatives: Sequence[str]) -> tuple[Text, Text | None]:
    """Text of the prompts and of the negatives, a row each, in their order; None where there are no negatives.

    All distinct ones go through the text encoders as one batch: a group of pictures of one prompt, or sharing a negative, encodes it once.
    """
    distinct = {prompt: row for row, prompt in enumerate(dict.fromkeys([*prompts, *negatives]))}
    encoded = family.encode(list(distinct))
    text = encoded.rows([distinct[prompt] for prompt in prompts])
    return text, encoded.rows([distinct[prompt] for prompt in negatives]) if negatives else None
