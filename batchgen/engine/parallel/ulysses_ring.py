"""Attention over a replica's ranks, each of which holds a share of the text tokens and one of the image tokens: exact, for any lengths.

Ulysses: ranks trade, every rank getting all tokens of its share of the heads; one device's attention; and back.
The ring: keys and values travel from rank to rank while those at hand are attended to; partial results are merged through the logarithm of
their softmax's denominator (log-sum-exp), in fp32:

    w = sigmoid(lse_b - lse_a)      out = (1 - w) out_a + w out_b      lse = log(exp lse_a + exp lse_b)

On a mesh the ring runs between Ulysses groups. Online softmax: https://arxiv.org/abs/1805.02867; the rest: `mesh.py`.

Tokens lead in the buffers that are exchanged: unequal parts arrive already joined, nothing is padded, no mask is needed. In compiled
blocks all of this is one opaque operator, `batchgen::attend_over_ranks`.

Legend: R rows, H heads, E head width; n tokens of this rank (its text share, then its image share), N of its Ulysses group, U the group's
ranks, h = H / U heads of one of them.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from batchgen.engine.attention.log_sum_exp import AttendPart
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.mesh import check_mesh, shares

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention on one device: q, k, v → the weighted values, [R, S, H, E]."""


class RanksAttention:
    """Attention of [R, n, H, E] on each rank; an `Attend`, for eager and for compiled blocks."""

    def __init__(self, ranks: Ranks, heads: int, attend: Attend, attend_part: AttendPart) -> None:
        """Only one of `attend` and `attend_part` is used: without a ring the first, with one the second.

        :raises JobError: the Ulysses degree does not divide the heads.
        """
        self._ulysses, self._ring = ranks.mesh.ulysses, ranks.mesh.ring
        check_mesh(ranks.degree, self._ulysses, self._ring, heads)
        self._ranks, self._attend, self._attend_part = ranks, attend, attend_part
        self._place, self._seat = divmod(ranks.rank, self._ulysses)  # in the ring, in Ulysses
        self._tokens = (0,) * ranks.degree  # of every rank
        self._handle = next(number for number in itertools.count() if number not in _ATTENTIONS)
        _ATTENTIONS[self._handle] = self

    def set_lengths(self, text: int, image: int) -> None:
        """Say how many tokens all ranks hold together, before a group's first block: blocks have no way to hand it down."""
        self._tokens = tuple(
            map(
                sum,
                zip(
                    shares(text, self._ranks.degree), shares(image, self._ranks.degree), strict=True
                ),
            )
        )

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[R, n, H, E] → [R, n, H, E], every token having attended to those of all ranks."""
        out: Tensor = _attend_over_ranks(q, k, v, self._handle)
        return out

    def over_ranks(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What the operator does."""
        assert q.shape[1] == self._tokens[self._ranks.rank], (
            f"{q.shape[1]} tokens, {self._tokens} set"
        )
        if self._ulysses > 1:
            q, k, v = self._deal_heads(q, k, v)
        out = self._attend_around(q, k, v) if self._ring > 1 else self._attend(q, k, v)
        return (self._return_heads(out) if self._ulysses > 1 else out).contiguous()

    def _group(self, place: int) -> tuple[int, ...]:
        """Tokens of the ranks of the Ulysses group at this place in the ring."""
        return self._tokens[place * self._ulysses : (place + 1) * self._ulysses]

    def _among_all(self, parts: tuple[int, ...]) -> list[int]:
        """Parts for or from this Ulysses group, with nothing for or from the others: so one process group serves every layout."""
        return (
            [0] * (self._place * self._ulysses)
            + [*parts]
            + [0] * ((self._ring - 1 - self._place) * self._ulysses)
        )

    def _deal_heads(self, *qkv: Tensor) -> tuple[Tensor, ...]:
        """[R, n, H, E] three times → [R, N, h, E] three times."""
        rows, tokens, heads, width = qkv[0].shape
        send = qkv[0].new_empty(
            self._ulysses, tokens, len(qkv), rows, heads // self._ulysses, width
        )
        for number, x in enumerate(qkv):
            send[:, :, number] = x.view(
                rows, tokens, self._ulysses, heads // self._ulysses, width
            ).permute(2, 1, 0, 3, 4)
        mine = (tokens,) * self._ulysses
        dealt = self._ranks.exchange(
            send.flatten(0, 1), self._among_all(mine), self._among_all(self._group(self._place))
        )
        return tuple(x.transpose(0, 1) for x in dealt.unbind(1))

    def _return_heads(self, out: Tensor) -> Tensor:
        """[R, N, h, E] → [R, n, H, E]."""
        group = self._group(self._place)
        mine = (group[self._seat],) * self._ulysses
        back = self._ranks.exchange(
            out.transpose(0, 1), self._among_all(group), self._among_all(mine)
        )
        return (
            back.view(self._ulysses, group[self._seat], *back.shape[1:])
            .permute(2, 1, 0, 3, 4)
            .flatten(2, 3)
        )

    def _attend_around(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[R, N, h, E] → [R, N, h, E], the keys and values of every place in the ring having come by."""
        merged: tuple[Tensor, Tensor] | None = None
        block = torch.stack((k, v))  # [2, R, N of its origin, h, E]
        for step in range(self._ring):
            if step + 1 < self._ring:
                length = sum(self._group((self._place - step - 1) % self._ring))
                arrived = self._ranks.rotate(
                    block, block.new_empty(*block.shape[:2], length, *block.shape[3:])
                )
            if q.shape[1] and block.shape[2]:  # no kernel takes empty operands
                part = self._attend_part(q, *block)
                merged = (part[0].float(), part[1]) if merged is None else merge(*merged, *part)
            if step + 1 < self._ring:
                block = arrived()
        return torch.empty_like(q) if merged is None else merged[0].to(q.dtype)


def merge(out: Tensor, lse: Tensor, other: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Attention to two parts of the keys → to both: values [R, S, H, E], log-sum-exp [R, H, S], both fp32. No score is too large."""
    weight = torch.sigmoid(other_lse - lse).transpose(1, 2).unsqueeze(-1)
    return torch.lerp(out, other.float(), weight), torch.logaddexp(lse, other_lse)


# An operator takes tensors and numbers, nothing else: an attention reaches it as a number, looked up here. Nobody but the operator reads
# this, and nobody has to clear it. The lowest free number is taken, because compiled code holds it and is cached for the next process.
_ATTENTIONS: weakref.WeakValueDictionary[int, RanksAttention] = weakref.WeakValueDictionary()


@torch.library.custom_op("batchgen::attend_over_ranks", mutates_args=())
def _attend_over_ranks(q: Tensor, k: Tensor, v: Tensor, handle: int) -> Tensor:
    return _ATTENTIONS[handle].over_ranks(q, k, v)


@_attend_over_ranks.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, handle: int) -> Tensor:  # noqa: ARG001 - the operator's own signature
    return q.new_empty(q.shape)
