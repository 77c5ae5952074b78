"""Exact attention over a replica's ranks, each with a share of the text and of the image tokens.

Ulysses: ranks exchange heads for tokens, so that every rank has all tokens of its share of the
heads; one device's attention; and the exchange back.

The ring: keys and values travel from rank to rank, while every rank attends to those it has. The
partial results are merged in fp32 through the logarithm of their softmax's denominator, lse (for
log-sum-exp):

    w = sigmoid(lse_b - lse_a)    out = (1 - w) out_a + w out_b    lse = log(exp lse_a + exp lse_b)

On a mesh the ring runs between Ulysses groups. The sources are in `mesh.py`; for the merge, Online
softmax, https://arxiv.org/abs/1805.02867.

In exchanged buffers the tokens are the first dimension. Parts of unequal lengths are then joined as
they are received, without padding and without a mask. To compiled blocks all of this is one opaque
operator, `batchgen::attend_over_ranks`.

Legend: R rows; H heads; E head width; n tokens of this rank, its text share and then its image
share; U ranks of a Ulysses group, N tokens of all of them, h = H / U heads of each.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from batchgen.engine.attention.log_sum_exp import AttendPart
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.mesh import check_mesh, shares

# Attention on one device: q, k, v → the weighted values, each [R, S, H, E].
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class RanksAttention:
    """Attention over all ranks' tokens; an `Attend` for eager and for compiled blocks."""

    def __init__(self, ranks: Ranks, heads: int, attend: Attend, attend_part: AttendPart) -> None:
        """:param attend: used without a ring.
        :param attend_part: used with a ring.
        :raises JobError: the Ulysses degree does not divide the heads.
        """
        self._ulysses, self._ring = ranks.mesh.ulysses, ranks.mesh.ring
        check_mesh(ranks.degree, self._ulysses, self._ring, heads)
        self._ranks, self._attend, self._attend_part = ranks, attend, attend_part
        self._ring_rank, self._ulysses_rank = divmod(ranks.rank, self._ulysses)
        # How many tokens every rank holds.
        self._tokens = (0,) * ranks.degree
        self._handle = next(number for number in itertools.count() if number not in _ATTENTIONS)
        _ATTENTIONS[self._handle] = self

    def set_lengths(self, text: int, image: int) -> None:
        """Say how many tokens all ranks hold together. Needed before a group's first block."""
        degree = self._ranks.degree
        both = zip(shares(text, degree), shares(image, degree), strict=True)
        self._tokens = tuple(text + image for text, image in both)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from this rank's tokens to those of all ranks: [R, n, H, E] → [R, n, H, E]."""
        out: Tensor = _attend_over_ranks(q, k, v, self._handle)
        return out

    def over_ranks(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Do what the operator does, for the operator."""
        mine = self._tokens[self._ranks.rank]
        assert q.shape[1] == mine, f"{q.shape[1]} tokens, {self._tokens} set"
        if self._ulysses > 1:
            q, k, v = self._heads_for_tokens(q, k, v)
        out = self._attend_around(q, k, v) if self._ring > 1 else self._attend(q, k, v)
        return (self._tokens_for_heads(out) if self._ulysses > 1 else out).contiguous()

    def _members(self, ring_rank: int) -> slice:
        """The ranks of one Ulysses group."""
        return slice(ring_rank * self._ulysses, (ring_rank + 1) * self._ulysses)

    def _exchange(self, x: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """`Ranks.exchange` within this Ulysses group: the other ranks get and give nothing."""
        sent, received = [0] * self._ranks.degree, [0] * self._ranks.degree
        sent[self._members(self._ring_rank)] = send
        received[self._members(self._ring_rank)] = receive
        return self._ranks.exchange(x, sent, received)

    def _heads_for_tokens(self, *qkv: Tensor) -> tuple[Tensor, ...]:
        """[R, n, H, E] three times → [R, N, h, E] three times."""
        rows, tokens, heads, width = qkv[0].shape
        by_rank = (self._ulysses, heads // self._ulysses)
        send = qkv[0].new_empty(by_rank[0], tokens, len(qkv), rows, by_rank[1], width)
        for number, x in enumerate(qkv):
            send[:, :, number] = torch.unflatten(x, 2, by_rank).permute(2, 1, 0, 3, 4)
        group = self._tokens[self._members(self._ring_rank)]
        received = self._exchange(send.flatten(0, 1), [tokens] * self._ulysses, group)
        return tuple(x.transpose(0, 1) for x in received.unbind(1))

    def _tokens_for_heads(self, out: Tensor) -> Tensor:
        """[R, N, h, E] → [R, n, H, E]."""
        group = self._tokens[self._members(self._ring_rank)]
        mine = group[self._ulysses_rank]
        received = self._exchange(out.transpose(0, 1), group, [mine] * self._ulysses)
        by_rank = received.view(self._ulysses, mine, *received.shape[1:])
        return by_rank.permute(2, 1, 0, 3, 4).flatten(2, 3)

    def _attend_around(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend to the keys and values of all Ulysses groups: [R, N, h, E] → [R, N, h, E]."""
        merged: tuple[Tensor, Tensor] | None = None
        block = torch.stack((k, v))  # [2, R, N of the group it comes from, h, E]
        for step in range(self._ring):
            more = step + 1 < self._ring
            if more:
                origin = (self._ring_rank - step - 1) % self._ring
                length = sum(self._tokens[self._members(origin)])
                incoming = block.new_empty(*block.shape[:2], length, *block.shape[3:])
                wait = self._ranks.rotate(block, incoming)
            if q.shape[1] and block.shape[2]:  # no kernel takes empty operands
                part = self._attend_part(q, *block)
                merged = (part[0].float(), part[1]) if merged is None else merge(*merged, *part)
            if more:
                block = wait()
        return torch.empty_like(q) if merged is None else merged[0].to(q.dtype)


def merge(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Attention to two parts of the keys → attention to both. Scores of any size do not overflow.

    :param out: values [R, S, H, E], fp32; `other`: the same, of any dtype.
    :param lse: log-sum-exp [R, H, S], fp32, as is `other_lse`.
    """
    weight = torch.sigmoid(other_lse - lse).transpose(1, 2).unsqueeze(-1)
    return torch.lerp(out, other.float(), weight), torch.logaddexp(lse, other_lse)


# An operator takes only tensors and numbers, so a `RanksAttention` is handed to it as a number and
# looked up here. The lowest free number is taken, because compiled code contains the number and is
# cached for the next process.
_ATTENTIONS: weakref.WeakValueDictionary[int, RanksAttention] = weakref.WeakValueDictionary()


@torch.library.custom_op("batchgen::attend_over_ranks", mutates_args=())
def _attend_over_ranks(q: Tensor, k: Tensor, v: Tensor, handle: int) -> Tensor:
    return _ATTENTIONS[handle].over_ranks(q, k, v)


@_attend_over_ranks.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, handle: int) -> Tensor:  # noqa: ARG001 - its signature
    return q.new_empty(q.shape)
