"""Families whose latents are those of FLUX.2's VAE: FLUX.2 and ERNIE-Image.

The VAE's latents are normalised by a batch norm over patches of 2×2. Noise is drawn for the
patches: a token is the channels of one.

Legend: C values of a token, r×c tokens.
"""

from __future__ import annotations

import diffusers
import torch
from torch import Tensor, nn

from batchgen.engine.families.family import Family


class Flux2VaeFamily(Family):
    """A family that paints in the latents of FLUX.2's VAE."""

    # Noise is drawn in tokens, whose values are the channels of a picture without patches.
    patch = 1
    token_order = (0, 2, 4, 1, 3, 5)
    autoencoder = diffusers.AutoencoderKLFlux2

    @property
    def variance_floor(self) -> float:
        """What is added to the batch norm's variances."""
        return float(self.vae.config.batch_norm_eps)

    def noise_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C, r, c) of a picture: the noise has no patches."""
        channels, high, wide = super().noise_shape(width, height)
        across, down = self.vae.config.patch_size
        return channels * across * down, high // across, wide // down

    def unpack(self, latents: Tensor, width: int, height: int) -> Tensor:
        """Values are scaled as the VAE's batch norm scaled them, and then spread over patches."""
        tokens, norm = self.unpatchify(latents, width, height), self.vae.bn
        mean, variance = (
            values.view(1, -1, 1, 1).to(tokens) for values in (norm.running_mean, norm.running_var)
        )
        scaled = tokens * torch.sqrt(variance + self.variance_floor) + mean
        return nn.functional.pixel_shuffle(scaled, self.vae.config.patch_size[0])
