"""From the output of a linear to what attention takes: heads, with q and k normalised and rotated.

    x → x / √(mean x² + ε) · weight                      https://arxiv.org/abs/1910.07467
    (a, b) → (a cos - b sin, b cos + a sin)              https://arxiv.org/abs/2104.09864

The first is an RMS norm over a head; the second turns pairs of a head's values by angles that
depend on the token's position. A pair are neighbours, or the values at one place of the two halves
of the head, as the model was trained. Both are computed in fp32 and rounded once, for q and k
together. Text and image go through it apart, before they are joined: compiled code then writes
each of them once, to its place among all tokens.

Legend: R rows, S tokens, H heads, E head width, D = H·E.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines of every token's angles, one for each value of a head: [S, E] for all rows, or
[R, S, E]."""


class QueryKeyNorm(nn.Module):
    """Two RMS norms over a head, of q and of k, as one."""

    def __init__(self, query: Any, key: Any) -> None:
        """Take the weights of two norms, PyTorch's or diffusers'."""
        super().__init__()
        assert query.eps == key.eps, "q and k are normalised alike"
        self.eps: float = query.eps
        self.weight = nn.Parameter(torch.stack([query.weight, key.weight]), requires_grad=False)

    def forward(self, qk: Tensor) -> Tensor:
        """[2, R, S, H, E] → the same, a new tensor in fp32."""
        x = qk.float()
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return x.mul_(self.weight[:, None, None, None].float())


def split_heads(
    qkv: Tensor,
    heads: int,
    norm: QueryKeyNorm | None,
    rotary: Rotary | None,
    *,
    halves: bool = False,
) -> tuple[Tensor, Tensor]:
    """[R, S, 3·D] → q and k [2, R, S, H, E], normalised and rotated, and v [R, S, H, E].

    :param norm: None where the model does not normalise.
    :param rotary: None where positions are elsewhere.
    :param halves: whether rotary pairs are of the halves of a head, and not neighbours.
    """
    q_k_v = torch.unflatten(qkv, -1, (3, heads, -1)).permute(2, 0, 1, 3, 4)
    qk, v = q_k_v[:2], q_k_v[2]
    if norm is not None:
        qk = norm(qk)
    if rotary is not None:
        qk = qk if norm is not None else qk.to(torch.float32, copy=True)
        qk = _rotate(qk, rotary, halves=halves)
    return qk.to(v.dtype), v


def _rotate(x: Tensor, rotary: Rotary, *, halves: bool) -> Tensor:
    """Rotate [..., S, H, E], in place: uncompiled, these are a block's largest tensors."""
    cosines, sines = (table.unsqueeze(-2) for table in rotary)
    if halves:
        first, second = x.chunk(2, dim=-1)
        turned = torch.cat((-second, first), dim=-1)
    else:
        turned = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
    return x.mul_(cosines).add_(turned.mul_(sines))
