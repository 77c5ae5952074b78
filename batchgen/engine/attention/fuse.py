"""Linears and norms that read the same tokens become one.

`to_qkv` is the stack of q, k and v, `to_added_qkv` that of the text, and in blocks whose MLP stands
beside their attention `to_qkv_mlp` holds the MLP's first linear too. The norms of q and k become
`norm_qk` and `norm_added_qk`. Of a gated MLP the gate and the value become `to_gated`
(`gated_mlp.py`). LoRAs come before, for they are stated against the trained names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from batchgen.engine.attention.gated_mlp import Activation, GatedMLP
from batchgen.engine.attention.heads import QueryKeyNorm
from batchgen.engine.attention.parallel_block import ParallelBlock

# Of an attention among the parts of a block.
_NAMES = ("attn", "attn2")
_QKV = ("to_q", "to_k", "to_v")
_ADDED_QKV = ("add_q_proj", "add_k_proj", "add_v_proj")
# Gate, value and output of a gated MLP, and what the gate goes through: as Z-Image has it, and as
# ERNIE-Image has it.
_GATED: dict[tuple[str, str, str], Activation] = {
    ("w1", "w3", "w2"): nn.functional.silu,
    ("gate_proj", "up_proj", "linear_fc2"): nn.functional.gelu,
}


@dataclass(frozen=True, slots=True)
class AttentionOf:
    """An attention of a block."""

    module: Any
    # Image tokens attend among themselves, without the text.
    alone: bool = False
    # Rotary pairs are of the two halves of a head, and not neighbours; see `heads.py`.
    halves: bool = False


def find_attentions(blocks: Sequence[nn.Module]) -> list[AttentionOf]:
    """Every attention of diffusers' MMDiT blocks."""
    children = (child for block in blocks for child in block.named_children())
    return [AttentionOf(child, name == "attn2") for name, child in children if name in _NAMES]


@torch.no_grad()
def fuse_projections(blocks: Sequence[nn.Module], attentions: Sequence[AttentionOf]) -> None:
    """Replace what reads the same tokens by its stack, in place, in every block."""
    for block in blocks:
        if hasattr(block, "proj_mlp"):
            _fuse_parallel(block)
        for mlp in list(block.modules()):
            for names, activation in _GATED.items():
                if all(hasattr(mlp, name) for name in names):
                    _fuse_gated(mlp, names, activation)
    for attn in (each.module for each in attentions):
        if hasattr(attn, "to_q"):
            attn.to_qkv = _stack(_take(attn, _QKV))
        if getattr(attn, "add_q_proj", None) is not None:
            attn.to_added_qkv = _stack(_take(attn, _ADDED_QKV))
        attn.norm_qk = _norm(*_take(attn, ("norm_q", "norm_k")))
        attn.norm_added_qk = _norm(*_take(attn, ("norm_added_q", "norm_added_k")))


def _fuse_parallel(block: Any) -> None:
    block.to_qkv_mlp = _stack([*_take(block.attn, _QKV), *_take(block, ("proj_mlp",))])
    block.__class__ = ParallelBlock


def _fuse_gated(mlp: Any, names: Sequence[str], activation: Activation) -> None:
    gate, value, out = _take(mlp, names)
    mlp.to_gated, mlp.to_out, mlp.activation = _stack([gate, value]), out, activation
    mlp.__class__ = GatedMLP


def _take(module: nn.Module, names: Sequence[str]) -> list[Any]:
    """The parts of these names, which leave the module. None where it has no such part."""
    parts = [getattr(module, name, None) for name in names]
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
    return parts


def _norm(query: Any, key: Any) -> QueryKeyNorm | None:
    return None if query is None else QueryKeyNorm(query, key)


def _stack(linears: Sequence[nn.Linear]) -> nn.Linear:
    """One linear, whose outputs are those of all, one after the other."""
    first, outputs = linears[0], sum(linear.out_features for linear in linears)
    has_bias = first.bias is not None
    stacked = nn.Linear(first.in_features, outputs, bias=has_bias, device="meta")
    for kind in ("weight", "bias") if has_bias else ("weight",):
        rows = torch.cat([getattr(linear, kind) for linear in linears])
        setattr(stacked, kind, nn.Parameter(rows, requires_grad=False))
    return stacked
