"""Joint attention of text and image tokens, the same processor for all families.

`fuse_projections` stacks q, k and v into one matrix: one larger product, and one input to quantize.
`JointAttention` is put into every block. It does what diffusers' own processors do, down to one
call `attend(q, k, v)`: a kernel of this device (`kernels.py`), or the exchange over a replica's
ranks around it.

Legend: R rows, S tokens (text first), H heads, E head width, D = H·E.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn

from batchgen.engine.attention.kernels import Attend

# Its annotations are narrower than what it takes.
_rotate: Any = apply_rotary_emb


class JointAttention:
    """An attention processor for diffusers' MMDiT blocks.

    Blocks with separate weights for text (FLUX.1's double blocks, SD3) and blocks without are
    served alike.
    """

    def __init__(self, attend: Attend) -> None:
        self.attend = attend

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """[R, S, D] → [R, S, D]. Where text comes apart, so does the result: (image, text)."""
        assert attention_mask is None, "no family here masks"
        image, text = hidden_states, encoder_hidden_states
        q, k, v = _heads(attn.to_qkv(image), attn.heads, attn.norm_q, attn.norm_k)
        if text is not None:
            norms = attn.norm_added_q, attn.norm_added_k
            added = _heads(attn.to_added_qkv(text), attn.heads, *norms)
            q, k, v = (torch.cat(pair, dim=1) for pair in zip(added, (q, k, v), strict=True))
        if image_rotary_emb is not None:
            q, k = (_rotate(x, image_rotary_emb, sequence_dim=1) for x in (q, k))
        out = self.attend(q, k, v).flatten(2)
        if text is None:
            return out if getattr(attn, "pre_only", False) else attn.to_out[0](out)
        length = text.shape[1]
        text_out, image_out = out[:, :length], attn.to_out[0](out[:, length:].contiguous())
        if not getattr(attn, "context_pre_only", False):
            text_out = attn.to_add_out(text_out.contiguous())
        return image_out, text_out


class ParallelAttention:
    """For the single blocks of FLUX.2: one linear for q, k, v and the MLP, one for both outputs."""

    def __init__(self, attend: Attend) -> None:
        self.attend = attend

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        attention_mask: None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """[R, S, D] → [R, S, D]."""
        assert attention_mask is None, "no family here masks"
        projected = attn.to_qkv_mlp_proj(hidden_states)
        qkv, mlp = projected.tensor_split([3 * attn.inner_dim], dim=-1)
        q, k, v = _heads(qkv, attn.heads, attn.norm_q, attn.norm_k)
        if image_rotary_emb is not None:
            q, k = (_rotate(x, image_rotary_emb, sequence_dim=1) for x in (q, k))
        out = self.attend(q, k, v).flatten(2)
        both: Tensor = attn.to_out(torch.cat([out, attn.mlp_act_fn(mlp)], dim=-1))
        return both


def _heads(qkv: Tensor, heads: int, norm_q: Any, norm_k: Any) -> tuple[Tensor, Tensor, Tensor]:
    """[R, S, 3·D] → q, k, v [R, S, H, E]; q and k are normalised where the model does so."""
    q, k, v = (part.view(*part.shape[:2], heads, -1) for part in qkv.chunk(3, dim=-1))
    return q if norm_q is None else norm_q(q), k if norm_k is None else norm_k(k), v


def install_attention(blocks: Sequence[nn.Module], joint: Attend, image: Attend) -> None:
    """Have every attention of the blocks computed so. Their projections must have been fused.

    :param joint: for attention of text and image tokens.
    :param image: for the second attention of some blocks, among image tokens alone (SD3.5 medium).
    """
    for name, attn in _attentions(blocks):
        kind = ParallelAttention if hasattr(attn, "to_qkv_mlp_proj") else JointAttention
        attn.processor = kind(image if name == "attn2" else joint)


def fuse_projections(blocks: Sequence[nn.Module]) -> None:
    """Replace the q, k and v linears of every attention by their stack, `to_qkv`.

    Those of the text become `to_added_qkv`. FLUX.2's single blocks come with a stack.
    """
    for _, attn in _attentions(blocks):
        if hasattr(attn, "to_qkv_mlp_proj"):
            continue
        _stack(attn, "to_qkv", ("to_q", "to_k", "to_v"))
        if getattr(attn, "add_q_proj", None) is not None:
            _stack(attn, "to_added_qkv", ("add_q_proj", "add_k_proj", "add_v_proj"))


def _attentions(blocks: Sequence[nn.Module]) -> list[tuple[str, Any]]:
    children = (child for block in blocks for child in block.named_children())
    return [(name, child) for name, child in children if name in ("attn", "attn2")]


@torch.no_grad()
def _stack(attn: nn.Module, name: str, parts: tuple[str, ...]) -> None:
    linears = [getattr(attn, part) for part in parts]
    first, outputs = linears[0], sum(linear.out_features for linear in linears)
    has_bias = first.bias is not None
    stacked = nn.Linear(first.in_features, outputs, bias=has_bias, device="meta")
    for kind in ("weight", "bias") if has_bias else ("weight",):
        rows = torch.cat([getattr(linear, kind) for linear in linears])
        setattr(stacked, kind, nn.Parameter(rows, requires_grad=False))
    for part in parts:
        delattr(attn, part)
    setattr(attn, name, stacked)
