"""Chroma: Chroma1-HD, -Base and -Flash, and whatever was tuned from them.

A FLUX.1-schnell without CLIP: blocks are called as FLUX.1's are and have no modulation linears. One
small network, the approximator, computes all their modulations, and the last norm's, from the time
and a number for each vector. The text is T5's, which is told what is padding.

**What attends to what.** A prompt is padded to `max_sequence_length`, and its tokens and the image
attend to each other and to one token of padding, if there is any; to nothing else. So the model was
trained: `attn_padding` in `src/models/chroma/model.py` of https://github.com/lodestone-rock/flow,
where the mask has truth values. `Text.lengths` says it here, without a mask.

diffusers 0.42.1 does something else, in `ChromaPipeline` called with prompts. It writes the same
mask as the numbers 0 and 1, which PyTorch adds to the scores. Nothing is masked then: padding
keeps 1/e of the weight that it would have without a mask, and its own output counts. Known as
https://github.com/huggingface/diffusers/issues/12116 (closed) and 13619; short prompts suffer most.
The pipeline does as the model was trained if it is called with embedded prompts and masks of truth
values, so tests/engine/families/test_every_family.py calls it so. tests/support/tiny_chroma.py has
the call, for whoever wants to repeat a picture.

`guidance` is the scale of classifier-free guidance, as in the pipeline's call. Over 1 every picture
has a second row, for its negative prompt or for "".

Not covered: pictures as input, inpainting, IP adapters, Chroma1-Radiance (which has no VAE).

Legend: R rows, S text tokens, T image tokens, C values of a token, D width, N steps, n steps of a
window, V vectors that the approximator makes for a step, M modulation values of a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from batchgen.engine.device import Device, upload
from batchgen.engine.families.family import Conditions, Family, Text
from batchgen.engine.families.flux import rotary_positions
from batchgen.engine.families.loading import LoadModule, load_module, load_tokenizer, tokenize

# Vectors of a double block's image and text, of a single block, and of the last norm.
_OF_STREAM, _OF_SINGLE, _OF_HEAD = 6, 3, 2


class Chroma(Family):
    """Chroma on a device."""

    # The values of a token: channel, row, column.
    token_order = (0, 2, 4, 1, 3, 5)
    ragged = True

    def __init__(
        self, folder: Path, device: Device, max_sequence_length: int, load: LoadModule = load_module
    ) -> None:
        """:param load: loads a module."""
        super().__init__(folder, device, load, diffusers.ChromaTransformer2DModel)
        self.blocks = [
            *self.transformer.transformer_blocks,
            *self.transformer.single_transformer_blocks,
        ]
        self.text = load(folder, "text_encoder", transformers.T5EncoderModel, device)
        self.encoders: tuple[nn.Module, ...] = (self.text,)
        self._tokenizer = load_tokenizer(folder, "tokenizer")
        self._max_sequence_length = max_sequence_length

    def encode(self, prompts: Sequence[str]) -> Text:
        """T5's tokens. A row's own are those of its prompt, and one of padding."""
        batch = tokenize(self._tokenizer, prompts, self._max_sequence_length)
        tokens = self.text(
            input_ids=upload(batch.input_ids, self._device.kind),
            attention_mask=upload(batch.attention_mask, self._device.kind),
        ).last_hidden_state
        own = batch.attention_mask.sum(dim=1) + 1
        return Text(tokens, lengths=tuple(own.clamp(max=self._max_sequence_length).tolist()))

    def modulator(self) -> nn.Module:
        """The approximator, which gives the head's modulation too."""
        model = self.transformer
        doubles, singles = len(model.transformer_blocks), len(model.single_transformer_blocks)
        approximator = model.distilled_guidance_layer
        channels = model.config.approximator_num_channels
        for name in ("distilled_guidance_layer", "time_text_embed"):
            delattr(model, name)
        return Approximated(approximator, doubles, singles, channels, self._device.dtype)

    def conditions(
        self, text: Text, timesteps: Tensor, guidance: Tensor, size: tuple[int, int]
    ) -> Conditions:
        """Time of every step, as the approximator takes it; rotary positions of text and image."""
        model, rows = self.transformer, len(guidance)
        timesteps = timesteps.to(self._device.dtype)
        # As the pipeline and the model between them compute it, rounding included.
        times = _sinusoids(timesteps / 1000 * 1000, model.config.approximator_num_channels // 4)
        return Conditions(
            model.context_embedder(text.tokens),
            times.to(timesteps.dtype)[:, None].expand(-1, rows, -1),
            rotary_positions(model, text.tokens.shape[1], self.grid(*size), self._device),
            text.lengths,
        )

    def block(
        self,
        index: int,
        image: Tensor,
        text: Tensor,
        modulation: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """Modulations of a block stand in rows of their own: [R, M / D, D]."""
        modulation = torch.unflatten(modulation, 1, (-1, image.shape[-1]))
        return super().block(index, image, text, modulation, rotary)

    def head(self, image: Tensor, temb: Tensor) -> Tensor:
        """The velocity [R, T, C]: a modulated norm and a linear.

        :param temb: [R, 2·D], shift and scale.
        """
        model = self.transformer
        normed = model.norm_out(image, torch.unflatten(temb, 1, (_OF_HEAD, -1)))
        velocity: Tensor = model.proj_out(normed)
        return velocity


class Approximated(nn.Module):
    """The modulations of all blocks and of the last norm, from the time alone.

    The approximator is told the time, a guidance of 0 and the number of a vector, and gives the
    vector. Vectors are in the order of single blocks, image of double blocks, text of double
    blocks, last norm.
    """

    vectors: Tensor

    def __init__(
        self, approximator: nn.Module, doubles: int, singles: int, channels: int, dtype: torch.dtype
    ) -> None:
        """:param doubles: number of double blocks.
        :param singles: number of single blocks.
        :param channels: values that the approximator takes.
        """
        super().__init__()
        self.approximator = approximator
        counts = [_OF_SINGLE] * singles + [_OF_STREAM] * (2 * doubles) + [_OF_HEAD]
        ends = np.cumsum([0, *counts]).tolist()
        each = [slice(*pair) for pair in pairwise(ends)]
        of_singles, of_image = each[:singles], each[singles : singles + doubles]
        of_text = each[singles + doubles : -1]
        # What each block takes of a step's vectors, and at last the head.
        self._parts: list[tuple[slice, ...]] = [
            *zip(of_image, of_text, strict=True),
            *((one,) for one in of_singles),
            (each[-1],),
        ]
        guidance = _sinusoids(torch.zeros(1), channels // 4).expand(ends[-1], -1)
        numbers = _sinusoids(torch.arange(ends[-1]) * 1000, channels // 2)
        # [V, what the approximator takes beside the time].
        self.register_buffer("vectors", torch.cat([guidance, numbers], dim=1).to(dtype), False)

    def forward(self, temb: Tensor) -> list[Tensor]:
        """Embedded time [n, R, ·] → for each block, and for the head, [n, R, M].

        All rows have the same time. The approximator takes one step after another, because its
        hidden values are several times as large as what it gives.
        """
        rows, count = temb.shape[1], len(self.vectors)
        made = torch.stack(
            [
                self.approximator(torch.cat([time.expand(count, -1), self.vectors], dim=1))
                for time in temb[:, :1]
            ]
        )
        return [
            torch.cat([made[:, part] for part in parts], dim=1)
            .flatten(1)[:, None]
            .repeat(1, rows, 1)
            for parts in self._parts
        ]


def _sinusoids(values: Tensor, channels: int) -> Tensor:
    """Cosines and sines of numbers [B] at falling frequencies, [B, channels], in fp32."""
    table: Tensor = get_timestep_embedding(
        values, channels, flip_sin_to_cos=True, downscale_freq_shift=0
    )
    return table
