"""Joint attention of text and image tokens: fused projections, and the kernel, chosen once.

`fuse_projections` stacks q, k and v into one matrix (one larger product, one input to quantize). `JointAttention` is put into every block
and does what diffusers' own processors do, for all families alike, down to one call `attend(q, k, v)`: a kernel on this device, or the
exchange over a replica's ranks around it.

| `[engine] attention` | where |
|---|---|
| `auto` | cuDNN on Hopper and newer, flash on older CUDA cards since Ampere; PyTorch's own choice elsewhere and in fp32 |
| `cudnn` `flash` | PyTorch's kernels of that name |
| `fa3` | FlashAttention 3, from its own repository or the package `fa3-fwd`; Hopper only; untested |
| `math` | the formula, written out: slow, for comparisons; in compiled blocks the compiler makes a kernel of it again |

The choice is part of the engine's identity, and so of the run: kernels round differently.
FlashAttention: https://arxiv.org/abs/2205.14135. Not covered: sparse or quantized attention, masks.

Legend: R rows, S tokens (text first), H heads, E head width, D = H·E.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn

from batchgen.engine.attention.kernels import Attend

_rotate: Any = apply_rotary_emb  # its annotations are narrower than what it takes


class JointAttention:
    """An attention processor for diffusers' MMDiT blocks, those with separate text weights (FLUX.1's double blocks, SD3) and without."""

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
        """[R, S, D] → [R, S, D]; with text apart: (image, text)."""
        assert attention_mask is None, "no family here masks"
        q, k, v = _project(attn.to_qkv, attn.heads, hidden_states, attn.norm_q, attn.norm_k)
        if encoder_hidden_states is not None:
            text = _project(
                attn.to_added_qkv,
                attn.heads,
                encoder_hidden_states,
                attn.norm_added_q,
                attn.norm_added_k,
            )
            q, k, v = (torch.cat(pair, dim=1) for pair in zip(text, (q, k, v), strict=True))
        if image_rotary_emb is not None:
            q, k = (_rotate(x, image_rotary_emb, sequence_dim=1) for x in (q, k))
        out = self.attend(q, k, v).flatten(2)
        if encoder_hidden_states is None:
            return out if getattr(attn, "pre_only", False) else attn.to_out[0](out)
        length = encoder_hidden_states.shape[1]
        text_out, image_out = out[:, :length], attn.to_out[0](out[:, length:].contiguous())
        return image_out, text_out if attn.context_pre_only else attn.to_add_out(
            text_out.contiguous()
        )


def _project(
    qkv: Callable[[Tensor], Tensor], heads: int, x: Tensor, norm_q: Any, norm_k: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """[R, S, D] → q, k, v [R, S, H, E], q and k normalised where the model does."""
    q, k, v = (part.view(*part.shape[:2], heads, -1) for part in qkv(x).chunk(3, dim=-1))
    return q if norm_q is None else norm_q(q), k if norm_k is None else norm_k(k), v


def install_attention(blocks: Sequence[nn.Module], joint: Attend, image: Attend) -> None:
    """Put them into every attention of the blocks, which must have been fused.

    :param image: for the second attention that some blocks have, among image tokens alone (SD3.5 medium).
    """
    for name, attn in _attentions(blocks):
        attn.processor = JointAttention(image if name == "attn2" else joint)


def fuse_projections(blocks: Sequence[nn.Module]) -> None:
    """Stack the q, k and v linears of every attention into `to_qkv`, those of the text into `to_added_qkv`, and drop the old ones."""
    for _, attn in _attentions(blocks):
        _stack(attn, "to_qkv", ("to_q", "to_k", "to_v"))
        if getattr(attn, "add_q_proj", None) is not None:
            _stack(attn, "to_added_qkv", ("add_q_proj", "add_k_proj", "add_v_proj"))


def _attentions(blocks: Sequence[nn.Module]) -> list[tuple[str, Any]]:
    return [
        (name, child)
        for block in blocks
        for name, child in block.named_children()
        if name in ("attn", "attn2")
    ]


@torch.no_grad()
def _stack(attn: nn.Module, name: str, parts: tuple[str, ...]) -> None:
    linears = [getattr(attn, part) for part in parts]
    first = linears[0]
    stacked = nn.Linear(
        first.in_features,
        sum(x.out_features for x in linears),
        bias=first.bias is not None,
        device="meta",
    )
    stacked.weight = nn.Parameter(
        torch.cat([linear.weight for linear in linears]), requires_grad=False
    )
    if first.bias is not None:
        stacked.bias = nn.Parameter(
            torch.cat([linear.bias for linear in linears]), requires_grad=False
        )
    for part in parts:
        delattr(attn, part)
    setattr(attn, name, stacked)
