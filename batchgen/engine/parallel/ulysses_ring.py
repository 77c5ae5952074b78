"""Exact attention over a replica's ranks, each with a share of the text and of the image tokens.

Ulysses: ranks exchange heads for tokens, so that every rank has all tokens of its share of the
heads; one device's attention; and the exchange back.

The ring: keys and values travel from rank to rank, while every rank attends to those it has. The
partial results are merged in fp32 through the logarithm of their softmax's denominator, lse (for
log-sum-exp):

    w = sigmoid(lse_b - lse_a)    out = (1 - w) out_a + w out_b    lse = log(exp lse_a + exp lse_b)

On a mesh the ring runs between Ulysses groups. The sources are in `mesh.py`; for the merge, Online
softmax, https://arxiv.org/abs/1805.02867.

Rows whose texts are shorter than the group's attend to their own tokens alone (`lengths.py`). Every
rank has image tokens, so that no row is ever without a key.

In exchanged buffers the tokens are the first dimension. Parts of unequal lengths are then joined as
they are received, without padding and without a mask. To compiled blocks all of this is one opaque
operator.

Legend: R rows; H heads; E head width; n tokens of this rank, its text share and then its image
share; U ranks of a Ulysses group, N tokens of all of them, h = H / U heads of each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from batchgen.engine.attention.kernels import Attend
from batchgen.engine.attention.lengths import Lengths, Part, join, rows_by_length
from batchgen.engine.attention.log_sum_exp import AttendPart
from batchgen.engine.attention.opaque import OpaqueAttention
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.mesh import check_mesh, shares


class RanksAttention(OpaqueAttention):
    """Attention over all ranks' tokens."""

    def __init__(
        self,
        ranks: Ranks,
        heads: int,
        lengths: Lengths,
        attend: Attend,
        attend_part: AttendPart,
        *,
        alone: bool = False,
    ) -> None:
        """:param attend: used without a ring.
        :param attend_part: used with a ring.
        :param alone: image tokens attend among themselves, without the text.
        :raises JobError: the Ulysses degree does not divide the heads.
        """
        super().__init__()
        self._ulysses, self._ring = ranks.mesh.ulysses, ranks.mesh.ring
        check_mesh(ranks.degree, self._ulysses, self._ring, heads)
        self._ranks, self._kernel, self._attend_part = ranks, attend, attend_part
        self._ring_rank, self._ulysses_rank = divmod(ranks.rank, self._ulysses)
        self._lengths, self._alone = lengths, alone

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend from this rank's tokens to those of all ranks: [R, n, H, E] → [R, n, H, E]."""
        self._parts = self._parts_of_ranks()
        # How many tokens every rank holds.
        self._tokens = tuple(part.text + part.image for part in self._parts)
        mine = self._tokens[self._ranks.rank]
        assert q.shape[1] == mine, f"{q.shape[1]} tokens, {self._tokens} set"
        if self._ulysses > 1:
            q, k, v = self._heads_for_tokens(q, k, v)
        if self._ring > 1:
            out = self._attend_around(q, k, v)
        else:
            parts = self._parts[self._members(0)]
            each = rows_by_length(q, k, v, parts, self._own())
            out = join([self._kernel(*qkv) for qkv in each])
        return (self._tokens_for_heads(out) if self._ulysses > 1 else out).contiguous()

    def _parts_of_ranks(self) -> list[Part]:
        """Which tokens every rank holds."""
        degree, text = self._ranks.degree, 0 if self._alone else self._lengths.text
        both = zip(shares(text, degree), shares(self._lengths.image, degree), strict=True)
        parts: list[Part] = []
        for of_text, of_image in both:
            parts.append(Part(parts[-1].first + parts[-1].text if parts else 0, of_text, of_image))
        return parts

    def _own(self) -> Sequence[int] | None:
        return None if self._alone else self._lengths.own

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
                parts = self._parts[self._members((self._ring_rank - step) % self._ring)]
                each = rows_by_length(q, block[0], block[1], parts, self._own())
                out, lse = zip(*(self._attend_part(*qkv) for qkv in each), strict=True)
                part = join(out), join(lse)
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
