"""The protocol a model family fulfils: all in which FLUX.1 and its successors differ. The rest of the engine is shared.

Adding a family: one file here that fulfils `Family`, its line in `load_family`, its facts for planning in `checkpoint.FAMILIES`.

Legend: B pictures, S text tokens, D text width, P pooled width, C latent channels, h×w latent pixels, N steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from batchgen.checkpoint import Checkpoint
from batchgen.engine.device import Device
from batchgen.errors import ModelError
from batchgen.manifest import Picture


@dataclass(frozen=True, slots=True)
class Text:
    """Encoded prompts."""

    tokens: Tensor  # [B, S, D]
    pooled: Tensor  # [B, P]

    def rows(self, index: Sequence[int]) -> Text:
        """The text of these pictures, in this order; a row may appear several times."""
        rows = torch.tensor(index, device=self.tokens.device)
        return Text(self.tokens[rows], self.pooled[rows])


@dataclass(frozen=True, slots=True)
class Schedule:
    """Noise levels of a denoising loop, fp32, on the device."""

    sigmas: Tensor  # [N + 1], falling to the last
    timesteps: Tensor  # [N], as the model is told them


class Family(Protocol):
    """A loaded model of one family, on its device.

    `transformer` may be changed in place by techniques (LoRA, quantization, compilation); `predict` calls whatever it has become.
    """

    transformer: nn.Module
    vae: Any  # diffusers' AutoencoderKL: decode(latents [B, C, h, w]) → pixels in [-1, 1]

    def encode(self, prompts: Sequence[str]) -> Text:
        """Text of the prompts, one row each, padded to the job's `max_sequence_length`."""

    def cfg_scale(self, picture: Picture) -> float:
        """Scale of the picture's classifier-free guidance; at 1 or below it has none and needs no second branch."""

    def noise_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, h, w) of a picture of width × height px."""

    def pack(self, noise: Tensor) -> Tensor:
        """[B, C, h, w] → latents as the transformer takes them, the B first."""

    def unpack(self, latents: Tensor, width: int, height: int) -> Tensor:
        """Latents → what the VAE decodes, [B, C, h, w], scaled and shifted."""

    def schedule(self, steps: int, width: int, height: int) -> Schedule:
        """The noise levels of a picture of this size in so many steps."""

    def predict(self, latents: Tensor, timestep: Tensor, guidance: Tensor, text: Text, size: tuple[int, int]) -> Tensor:
        """The velocity of the latents, in their shape. One call of the transformer.

        :param timestep: [B], in the latents' dtype.
        :param guidance: [B], fp32; families without embedded guidance ignore it.
        :param size: (width, height) in px.
        """

    def lora_targets(self) -> Mapping[str, tuple[nn.Linear, ...]]:
        """Names under which LoRA files know the linears; see `lora.py`."""


def load_family(checkpoint: Checkpoint, device: Device, max_sequence_length: int) -> Family:
    """Load the checkpoint's weights onto the device.

    :raises ModelError: components that are not the ones this family is made of, or that cannot be loaded.
    """
    if checkpoint.family == "flux":
        from batchgen.engine.flux import Flux  # here: importing one family costs seconds; the others are not needed

        return Flux(checkpoint.folder, device, max_sequence_length)
    raise ModelError(f"{checkpoint.folder}: planned as family {checkpoint.family!r}, which this engine does not have; known: flux")
