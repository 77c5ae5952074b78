"""The protocol a model family fulfils: all in which FLUX.1 and its successors differ. The rest of the engine is shared.

Adding a family: one file here that fulfils `Family`, its line in `load_family`, its facts for planning in `checkpoint.FAMILIES`.

Legend: B pictures; R rows of a transformer call: the pictures, then one more for each that has classifier-free guidance; S text tokens,
T image tokens, D the transformer's width, C channels of a token (C' of a latent pixel), h×w latent pixels, N steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from batchgen.manifest import Picture


@dataclass(frozen=True, slots=True)
class Text:
    """Encoded prompts."""

    tokens: Tensor  # [R, S, the text encoder's width]
    pooled: Tensor  # [R, its pooled width]

    def rows(self, index: Sequence[int]) -> Text:
        """The text of these pictures, in this order; a row may appear several times."""
        rows = torch.tensor(index, device=self.tokens.device)
        return Text(self.tokens[rows], self.pooled[rows])


@dataclass(frozen=True, slots=True)
class Schedule:
    """Noise levels of a denoising loop, fp32, on the device."""

    sigmas: Tensor  # [N + 1], falling to the last
    timesteps: Tensor  # [N], as the model is told them


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all steps of a group share."""

    text: Tensor  # [R, S, D], as the blocks take it
    temb: Tensor  # [N, R, D], each step's embedding of time, guidance and pooled text
    rotary: (
        tuple[Tensor, Tensor] | None
    )  # cosines and sines, [S + T, ·], text first; None where the family has none


class Family(Protocol):
    """A loaded model of one family, on its device.

    `transformer` and its `blocks` are changed in place by techniques (LoRA, modulation, quantization, attention), or the list's entries
    replaced (compilation); `block` calls whatever they have become.
    """

    transformer: Any  # a diffusers model
    blocks: list[Any]  # the transformer's, in the order of the data
    t5: nn.Module  # the large text encoder
    encoders: tuple[nn.Module, ...]  # all of them
    vae: Any  # diffusers' AutoencoderKL: decode(latents [B, C', h, w]) → pixels in [-1, 1]

    def encode(self, prompts: Sequence[str]) -> Text:
        """Text of the prompts, one row each, padded to the job's `max_sequence_length`."""

    def cfg_scale(self, picture: Picture) -> float:
        """Scale of the picture's classifier-free guidance; at 1 or below it has none and needs no second branch."""

    def noise_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C', h, w) of a picture of width × height px."""

    def pack(self, noise: Tensor) -> Tensor:
        """[B, C', h, w] → latents as the transformer takes them, [B, T, C]."""

    def unpack(self, latents: Tensor, width: int, height: int) -> Tensor:
        """Latents → what the VAE decodes, [B, C', h, w], scaled and shifted."""

    def schedule(self, steps: int, width: int, height: int) -> Schedule:
        """The noise levels of a picture of this size in so many steps."""

    def conditions(
        self, text: Text, timesteps: Tensor, guidance: Tensor, size: tuple[int, int]
    ) -> Conditions:
        """All that does not depend on the latents.

        :param timesteps: [N], fp32, as scheduled; families differ in when they round them.
        :param guidance: [R], fp32; families without embedded guidance ignore it.
        :param size: (width, height) in px.
        """

    def embed(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        """Latents [R, T, C] → image tokens [R, T, D]."""

    def block(
        self,
        index: int,
        image: Tensor,
        text: Tensor,
        modulation: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """Image and text tokens after the block `index`.

        :param modulation: [R, M]; see `modulation.py`.
        """

    def modulated(self, image: Tensor, modulation: Tensor) -> Tensor:
        """Image tokens as the first block's attention sees them, [R, T, D]: what TeaCache measures."""

    def head(self, image: Tensor, temb: Tensor) -> Tensor:
        """Image tokens [R, T, D] after the last block, and the step's embedding [R, D] → velocity [R, T, C]."""

    def lora_targets(self) -> Mapping[str, tuple[nn.Linear, ...]]:
        """Names under which LoRA files know the linears; see `lora.py`."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """What flows through the blocks: this rank's share."""

    image: Tensor  # [R, T, D]
    text: Tensor  # [R, S, D]

    def rows(self, index: Tensor) -> Tokens:
        """These rows, in this order."""
        return Tokens(self.image.index_select(0, index), self.text.index_select(0, index))
