"""Waste, put into the engine's blocks on purpose: each must exceed what a block may launch.

Legend: R rows, S text tokens, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from batchgen.engine.attention import fuse, heads, kernels, opaque
from batchgen.engine.attention.joint import JointAttention
from batchgen.engine.attention.parallel_block import ParallelBlock

patch = mock.patch.object
_fuse_parallel, _cudnn = fuse._fuse_parallel, kernels._cudnn


class _Apart(nn.Module):
    """A stacked linear as two."""

    def __init__(self, stacked: nn.Linear, first: int) -> None:
        super().__init__()
        outputs = first, stacked.out_features - first
        self.out_features, self.parts = stacked.out_features, nn.ModuleList()
        for rows in stacked.weight.split(outputs):
            part = nn.Linear(stacked.in_features, len(rows), device="meta")
            part.weight = nn.Parameter(rows.clone(), requires_grad=False)
            part.bias = nn.Parameter(stacked.bias[: len(rows)].clone(), requires_grad=False)
            self.parts.append(part)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], dim=-1)


def _apart(block: Any) -> None:
    _fuse_parallel(block)
    stacked = block.to_qkv_mlp
    block.to_qkv_mlp = _Apart(stacked, stacked.out_features - block.mlp_hidden_dim)


def _stream_by_stream(
    block: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor, **more: Any
) -> tuple[Tensor, Tensor]:
    """`ParallelBlock.forward`, whose first linear takes text and image apart."""
    linear, length = block.to_qkv_mlp, encoder_hidden_states.shape[1]
    tokens = torch.cat([encoder_hidden_states, hidden_states], dim=1)
    x, gate = block.norm(tokens, emb=temb)
    made = torch.cat([linear(x[:, :length]), linear(x[:, length:])], dim=1)
    qkv, hidden = made.split([3 * x.shape[-1], block.mlp_hidden_dim], dim=-1)
    attended = block.attn.processor.attended(block.attn, qkv, more["image_rotary_emb"])
    out = block.proj_out(torch.cat([attended, block.act_mlp(hidden)], dim=-1))
    tokens = tokens + gate.unsqueeze(1) * out
    return tokens[:, :length], tokens[:, length:]


def _joined_first(
    its: Any,
    attn: Any,
    hidden_states: Tensor,
    encoder_hidden_states: Tensor,
    _: None,
    image_rotary_emb: heads.Rotary,
) -> tuple[Tensor, Tensor]:
    """`JointAttention`, which rotates q and k after it has joined text and image."""
    length, norms = encoder_hidden_states.shape[1], (attn.norm_added_qk, attn.norm_qk)
    both = attn.to_added_qkv(encoder_hidden_states), attn.to_qkv(hidden_states)
    apart = [
        heads.split_heads(qkv, attn.heads, norm, None)
        for qkv, norm in zip(both, norms, strict=True)
    ]
    qk, v = (torch.cat(pair, dim=-3) for pair in zip(*apart, strict=True))
    qk = heads._rotate(qk.float(), image_rotary_emb, halves=its.halves).to(v.dtype)
    out = its.attend(qk[0], qk[1], v).flatten(2)
    text, image = out[:, :length].contiguous(), out[:, length:].contiguous()
    return attn.to_out[0](image), attn.to_add_out(text)


def _in_its_own_layout(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`kernels._cudnn`, handed heads before tokens also in memory."""
    heads_first = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    return _cudnn(*heads_first)


@torch.library.custom_op("batchgen::attend_untagged", mutates_args=())
def _attend_untagged(q: Tensor, k: Tensor, v: Tensor, handle: int) -> Tensor:
    return opaque._ATTENTIONS[handle].attend(q, k, v)


@_attend_untagged.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, handle: int) -> Tensor:
    return q.new_empty(q.shape)


MUTANTS: dict[str, Callable[[], Any]] = {
    "": contextlib.nullcontext,
    "q, k, v and the MLP apart": lambda: patch(fuse, "_fuse_parallel", _apart),
    "an input rounded in two": lambda: patch(ParallelBlock, "forward", _stream_by_stream),
    "joined before rotated": lambda: patch(JointAttention, "__call__", _joined_first),
    "heads before tokens": lambda: patch(kernels, "_cudnn", _in_its_own_layout),
    "gate and value apart": lambda: patch(fuse, "_GATED", {}),
    "eager mode's strides": lambda: patch(opaque, "_attend", _attend_untagged),
}


def put_in(mutant: str) -> Any:
    """A context with this waste in the engine; "" is none."""
    return MUTANTS[mutant]()
