"""Z-Image's blocks as the engine calls them. Legend: see zimage.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from batchgen.engine.attention.heads import Rotary


class JointBlock(nn.Module):
    """A diffusers `ZImageTransformerBlock` as the engine calls it: text and image as one stream.

    The block changes its class and stays the same object, because the transformer and the family
    hold it both.
    """

    attention: Any
    feed_forward: nn.Module
    attention_norm1: nn.Module
    attention_norm2: nn.Module
    ffn_norm1: nn.Module
    ffn_norm2: nn.Module

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        image_rotary_emb: Rotary,
    ) -> tuple[Tensor, Tensor]:
        """Image [R, T, D] and text [R, S', D], modulated by [R, M] → image and text."""
        streams = [encoder_hidden_states, hidden_states]
        text, image = self._transformed(streams, temb, image_rotary_emb)
        return image, text

    def _transformed(
        self, streams: Sequence[Tensor], modulation: Tensor, rotary: Rotary
    ) -> list[Tensor]:
        """Attention and MLP, each scaled before, normalised after, and gated.

        Streams meet, and part before the last norm: compiled code then writes each of them once.
        """
        lengths = [stream.shape[1] for stream in streams]
        tokens = torch.cat(list(streams), dim=1)
        scale, gate, mlp_scale, mlp_gate = modulation.unsqueeze(1).chunk(4, dim=-1)
        scaled = self.attention_norm1(tokens) * (1 + scale)
        attended = self.attention(scaled, image_rotary_emb=rotary)
        tokens = tokens + gate.tanh() * self.attention_norm2(attended)
        made = self.feed_forward(self.ffn_norm1(tokens) * (1 + mlp_scale))
        parts = zip(tokens.split(lengths, dim=1), made.split(lengths, dim=1), strict=True)
        return [part + mlp_gate.tanh() * self.ffn_norm2(its) for part, its in parts]


class ImageBlock(JointBlock):
    """One that refines the image before it meets the text."""

    def forward(  # type: ignore[override]
        self, hidden_states: Tensor, temb: Tensor, image_rotary_emb: Rotary
    ) -> tuple[Tensor]:
        """Image tokens [R, T, D], modulated by [R, M] → image tokens."""
        (image,) = self._transformed([hidden_states], temb, image_rotary_emb)
        return (image,)
