"""Joint attention of text and image tokens, the same processor for all families.

`JointAttention` is put into every block. It does what diffusers' own processors do, down to one
call `attend(q, k, v)`: a kernel of this device (`kernels.py`), or the exchange over a replica's
ranks around it.

Legend: R rows, S text tokens, T image tokens, H heads, E head width, D = H·E.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from batchgen.engine.attention.fuse import AttentionOf
from batchgen.engine.attention.heads import Rotary, split_heads
from batchgen.engine.attention.kernels import Attend


class _Attention:
    """What the processors share: the kernel, and attention from one linear's output."""

    def __init__(self, attend: Attend, *, halves: bool) -> None:
        self.attend, self.halves = attend, halves

    def attended(self, attn: Any, qkv: Tensor, rotary: Rotary | None) -> Tensor:
        """Attention among the tokens of one linear's output, [R, S, 3·D] → [R, S, D]."""
        qk, v = split_heads(qkv, attn.heads, attn.norm_qk, rotary, halves=self.halves)
        return self.attend(qk[0], qk[1], v).flatten(2)


class JointAttention(_Attention):
    """An attention processor for diffusers' MMDiT blocks. Their projections must have been fused.

    Blocks with separate weights for text (FLUX.1's double blocks, SD3) and blocks without are
    served alike.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        image_rotary_emb: Rotary | None = None,
        encoder_hidden_states_mask: None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """[R, T, D] → [R, T, D]. Where text comes apart, so does the result: (image, text)."""
        assert attention_mask is encoder_hidden_states_mask is None, "no family here masks"
        image, text = hidden_states, encoder_hidden_states
        if text is None:
            out: Tensor = attn.to_out[0](self.attended(attn, attn.to_qkv(image), image_rotary_emb))
            return out
        of_text, of_image = _split_rotary(image_rotary_emb, text.shape[1])
        heads, halves, norms = attn.heads, self.halves, (attn.norm_added_qk, attn.norm_qk)
        added = split_heads(attn.to_added_qkv(text), heads, norms[0], of_text, halves=halves)
        own = split_heads(attn.to_qkv(image), heads, norms[1], of_image, halves=halves)
        qk, v = (torch.cat(pair, dim=-3) for pair in zip(added, own, strict=True))
        out = self.attend(qk[0], qk[1], v).flatten(2)
        length = text.shape[1]
        text_out, image_out = out[:, :length], attn.to_out[0](out[:, length:].contiguous())
        if not getattr(attn, "context_pre_only", False):
            text_out = attn.to_add_out(text_out.contiguous())
        return image_out, text_out


class ParallelAttention(_Attention):
    """For FLUX.2's single blocks, whose attention holds the MLP.

    One linear is there for q, k, v and the MLP's input, and one for both outputs.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        attention_mask: None = None,
        image_rotary_emb: Rotary | None = None,
    ) -> Tensor:
        """[R, S, D] → [R, S, D]."""
        assert attention_mask is None, "no family here masks"
        qkv, mlp = attn.to_qkv_mlp_proj(hidden_states).tensor_split([3 * attn.inner_dim], dim=-1)
        attended = self.attended(attn, qkv, image_rotary_emb)
        out: Tensor = attn.to_out(torch.cat([attended, attn.mlp_act_fn(mlp)], dim=-1))
        return out


def _split_rotary(
    rotary: Rotary | None, text_tokens: int
) -> tuple[Rotary, Rotary] | tuple[None, None]:
    """The positions of the text, and those of the image."""
    if rotary is None:
        return None, None
    (cosines, sines), at = rotary, [text_tokens]
    of_text, of_image = zip(cosines.tensor_split(at, -2), sines.tensor_split(at, -2), strict=True)
    return of_text, of_image


def install_attention(attentions: Sequence[AttentionOf], joint: Attend, image: Attend) -> None:
    """Have every attention computed so. Their projections must have been fused.

    :param joint: for attention of text and image tokens.
    :param image: for attention of image tokens alone, as the second one of SD3.5 medium's blocks.
    """
    for each in attentions:
        holds_mlp = hasattr(each.module, "to_qkv_mlp_proj")
        kind = ParallelAttention if holds_mlp else JointAttention
        attend = image if each.alone else joint
        each.module.processor = kind(attend, halves=each.halves)
