"""A block whose attention and MLP stand side by side: FLUX.1's single blocks.

Both read the same normalised tokens, so the linears for q, k, v and the MLP are one (`fuse.py`):
one larger product, and one input to quantize. https://arxiv.org/abs/2302.05442 has the idea.

Legend: R rows, S text tokens, T image tokens, D width, F width of the MLP, M modulation values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from batchgen.engine.attention.heads import Rotary


class ParallelBlock(nn.Module):
    """What a diffusers single block becomes when its linears are fused.

    `fuse.py` changes the class of the block. It stays the same object, because the transformer and
    the family hold it both.
    """

    norm: nn.Module
    attn: Any
    # D → 3·D + F.
    to_qkv_mlp: nn.Linear
    act_mlp: nn.Module
    # D + F → D.
    proj_out: nn.Linear
    mlp_hidden_dim: int

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        image_rotary_emb: Rotary | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Image [R, T, D] and text [R, S, D], modulated by [R, M] → text and image."""
        text_tokens = encoder_hidden_states.shape[1]
        tokens = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        x, gate = self.norm(tokens, emb=temb)
        widths = (self.to_qkv_mlp.out_features - self.mlp_hidden_dim, self.mlp_hidden_dim)
        qkv, hidden = self.to_qkv_mlp(x).split(widths, dim=-1)
        attended = self.attn.processor.attended(self.attn, qkv, image_rotary_emb)
        out = self.proj_out(torch.cat([attended, self.act_mlp(hidden)], dim=-1))
        tokens = tokens + gate.unsqueeze(1) * out
        return tokens[:, :text_tokens], tokens[:, text_tokens:]
