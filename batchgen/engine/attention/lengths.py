"""Groups whose prompts have lengths of their own: no token attends to another prompt's padding.

Texts of a group are padded to one length. Where a model was trained without padding, a row's keys
are its own text tokens and its image tokens. Rows of one length, neighbours in the group, attend in
one call of the device's kernel, which needs no mask: the fastest kernels take none. What padding
attends to is never read.

    RowsAttention    for a rank alone; several ranks have `parallel/ulysses_ring.py`

Legend: R rows, S text tokens of which s are a row's own, T image tokens, H heads, E head width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from batchgen.engine.attention.kernels import Attend
from batchgen.engine.attention.opaque import OpaqueAttention


@dataclass
class Lengths:
    """How many tokens the group has, on all ranks. The forward pass writes it before the blocks."""

    # S.
    text: int = 0
    # T.
    image: int = 0
    # s of each row that goes through the blocks; None: all have S.
    own: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Tokens that stand side by side: a share of the text, then a share of the image."""

    # Number of its first text token among the S.
    first: int
    text: int
    image: int


def rows_by_length(
    q: Tensor, k: Tensor, v: Tensor, parts: Sequence[Part], own: Sequence[int] | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """q, k and v of neighbouring rows with equally long texts, keys of padding left out.

    :param k: [R, tokens of the parts, H, E], as `v`.
    :param own: s of each row; None: all have S.
    """
    if own is None or min(own) >= parts[-1].first + parts[-1].text:
        yield q, k, v
        return
    first = 0
    for length, rows in itertools.groupby(own):
        run = slice(first, first + len(list(rows)))
        yield q[run], _own_keys(k[run], parts, length), _own_keys(v[run], parts, length)
        first = run.stop


def join(parts: Sequence[Tensor]) -> Tensor:
    """The rows of all parts, in order. A part that is everything is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _own_keys(x: Tensor, parts: Sequence[Part], length: int) -> Tensor:
    kept: list[Tensor] = []
    at = 0
    for part in parts:
        own = min(max(length - part.first, 0), part.text)
        kept.append(x[:, at : at + own])
        at += part.text
        kept.append(x[:, at : at + part.image])
        at += part.image
    return torch.cat(kept, dim=1)


class RowsAttention(OpaqueAttention):
    """Attention of rows with texts of their own lengths."""

    def __init__(self, lengths: Lengths, attend: Attend) -> None:
        """:param attend: attention to all keys."""
        super().__init__()
        self._lengths, self._kernel = lengths, attend

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[R, S + T, H, E] → [R, S + T, H, E]."""
        whole = [Part(0, self._lengths.text, self._lengths.image)]
        each = rows_by_length(q, k, v, whole, self._lengths.own)
        return join([self._kernel(*qkv) for qkv in each]).contiguous()
