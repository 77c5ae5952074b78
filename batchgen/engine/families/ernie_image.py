"""ERNIE-Image and ERNIE-Image-Turbo.

Semantics are those of diffusers' `ErnieImagePipeline` without its prompt enhancer;
tests/engine/families/test_every_family.py compares the two. All blocks have one stream of tokens
and share one modulation linear. The text is the last hidden layer but one of the language model in
a Mistral3, of a prompt as it is written: no template, no padding. diffusers puts image tokens
first, and here text tokens come first, which is the same to attention.

`guidance` is the scale of classifier-free guidance, as in the pipeline's call; over 1 every picture
has a second row, for its negative prompt or for "". Turbo is distilled for 8 steps without:
`guidance = 1`.

Not covered: the prompt enhancer, a second language model that rewrites prompts.

Legend: R rows, S text tokens, T image tokens, C values of a token, D width, E head width, N steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from batchgen.engine.attention.fuse import AttentionOf
from batchgen.engine.device import Device, upload
from batchgen.engine.families.family import Conditions, Text
from batchgen.engine.families.first_layers import FirstLayers
from batchgen.engine.families.flux2_vae import Flux2VaeFamily
from batchgen.engine.families.loading import LoadModule, load_module, load_tokenizer
from batchgen.engine.modulation import Modulator


class ErnieImageBlock(nn.Module):
    """diffusers' `ErnieImageSharedAdaLNBlock`, but text and image tokens come apart, rows first.

    A block gets this class; it is never constructed.
    """

    self_attention: Any
    adaLN_sa_ln: nn.Module  # noqa: N815 - diffusers' names
    adaLN_mlp_ln: nn.Module  # noqa: N815
    mlp: nn.Module

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        image_rotary_emb: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Text [R, S, D] and image tokens [R, T, D].

        :param temb: [R, 6·D]: shift, scale and gate of the attention, then of the MLP.
        """
        attention = self.self_attention
        of_attention, of_mlp = temb.unsqueeze(1).float().chunk(2, dim=-1)
        x = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        shift, scale, gate = of_attention.chunk(3, dim=-1)
        moved = (self.adaLN_sa_ln(x).float() * (1 + scale) + shift).to(x.dtype)
        attended = attention.processor(attention, moved, image_rotary_emb=image_rotary_emb)
        x = x + (gate * attended.float()).to(x.dtype)
        shift, scale, gate = of_mlp.chunk(3, dim=-1)
        moved = (self.adaLN_mlp_ln(x).float() * (1 + scale) + shift).to(x.dtype)
        # Text and image part before the last sum: compiled code then writes each of them once.
        at = [encoder_hidden_states.shape[1]]
        both = zip(x.tensor_split(at, dim=1), self.mlp(moved).tensor_split(at, dim=1), strict=True)
        text, image = (part + (gate * its.float()).to(x.dtype) for part, its in both)
        return text, image


class ErnieImage(Flux2VaeFamily):
    """ERNIE-Image on a device."""

    ragged = True
    # The pipeline's; the VAE's configuration names another, which it does not read.
    variance_floor = 1e-5

    def __init__(
        self, folder: Path, device: Device, max_sequence_length: int, load: LoadModule = load_module
    ) -> None:
        """:param load: loads a module."""
        super().__init__(folder, device, load, diffusers.ErnieImageTransformer2DModel)
        self.blocks = [*self.transformer.layers]
        for block in self.blocks:
            block.__class__ = ErnieImageBlock
        self.text = load(folder, "text_encoder", FirstLayers(-1), device)
        self.encoders: tuple[nn.Module, ...] = (self.text,)
        self._tokenizer = load_tokenizer(folder, "tokenizer")
        self._max_sequence_length = max_sequence_length

    def encode(self, prompts: Sequence[str]) -> Text:
        """The last hidden layer but one. Padding follows the prompts, and they do not see it."""
        length, begin = self._max_sequence_length, self._tokenizer.bos_token_id or 0
        batch = self._tokenizer(list(prompts), truncation=True, max_length=length).input_ids
        # A prompt without tokens is encoded as one.
        own = [row or [begin] for row in batch]
        ids, mask = torch.zeros(2, len(prompts), length, dtype=torch.int64)
        for row, tokens in enumerate(own):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = torch.tensor(tokens), 1
        hidden = self.text(
            input_ids=upload(ids, self._device.kind),
            attention_mask=upload(mask, self._device.kind),
            use_cache=False,
        )
        return Text(hidden.last_hidden_state, lengths=tuple(map(len, own)))

    def levels(self, steps: int) -> dict[str, Any]:
        """N evenly spaced levels from 1 to 1/N, to be shifted."""
        return {"sigmas": torch.linspace(1.0, 0.0, steps + 1)[:-1].numpy()}

    def modulator(self) -> Modulator:
        """One linear for all blocks."""
        shared = [self.transformer.adaLN_modulation[1]]
        del self.transformer.adaLN_modulation
        return Modulator([shared] * len(self.blocks))

    def attentions(self) -> list[AttentionOf]:
        """One in each block."""
        blocks = self.transformer.layers
        return [AttentionOf(block.self_attention, halves=True) for block in blocks]

    def conditions(
        self, text: Text, timesteps: Tensor, guidance: Tensor, size: tuple[int, int]
    ) -> Conditions:
        """Time of every step, the same for all rows; positions of text and image."""
        assert text.lengths is not None
        model, dtype = self.transformer, self._device.dtype
        times = model.time_proj(timesteps.to(dtype)).to(dtype)
        temb = model.time_embedding(times).unsqueeze(1).expand(-1, len(guidance), -1)
        tokens = text.tokens if model.text_proj is None else model.text_proj(text.tokens)
        rotary = self._rotary(text.lengths, text.tokens.shape[1], *self.grid(*size))
        return Conditions(tokens, temb, rotary, text.lengths)

    def _rotary(
        self, lengths: Sequence[int], text_tokens: int, rows: int, columns: int
    ) -> tuple[Tensor, Tensor]:
        """Positions are (place, 0, 0) for text, and (own length, row, column) for image tokens."""
        text = torch.zeros(len(lengths), text_tokens, 3)
        text[..., 0] = torch.arange(text_tokens)
        image = torch.zeros(len(lengths), rows, columns, 3)
        image[..., 0] = torch.tensor(lengths)[:, None, None]
        image[..., 1] = torch.arange(rows)[:, None]
        image[..., 2] = torch.arange(columns)[None, :]
        ids = torch.cat([text, image.flatten(1, 2)], dim=1)
        config, kind = self.transformer.config, self._device.kind
        widths = torch.tensor(config.rope_axes_dim)
        turns = [torch.arange(0, width, 2, dtype=torch.float32) / width for width in widths]
        frequencies = upload(1.0 / (config.rope_theta ** torch.cat(turns)), kind)
        axes = upload(torch.arange(3).repeat_interleave(widths // 2), kind)
        angles = upload(ids, kind).index_select(-1, axes) * frequencies
        angles = angles.repeat_interleave(2, dim=-1)
        return angles.cos(), angles.sin()

    def embed(self, latents: Tensor, size: tuple[int, int]) -> Tensor:  # noqa: ARG002 - see SD3's
        """A convolution of one pixel, which is a linear."""
        convolution = self.transformer.x_embedder.proj
        return nn.functional.linear(latents, convolution.weight.flatten(1), convolution.bias)

    def head(self, image: Tensor, temb: Tensor) -> Tensor:
        """A modulated norm and a linear."""
        model = self.transformer
        scale, shift = model.final_norm.linear(temb).unsqueeze(1).chunk(2, dim=-1)
        velocity: Tensor = model.final_linear(model.final_norm.norm(image) * (1 + scale) + shift)
        return velocity
