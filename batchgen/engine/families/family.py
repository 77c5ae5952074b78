"""A model family: what the engine asks of it, and what families share as diffusers models.

Legend: B pictures; R rows of a transformer call: the pictures, then one more row for each picture
with classifier-free guidance; S text tokens, D the transformer's width, M modulation values of a
block, N steps; C' latent channels, h×w latent pixels, p of them along a side of a token, r×c tokens
(h/p × w/p), T = r·c image tokens, C = p·p·C' values of a token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import numpy as np
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor, nn

from batchgen.engine.attention.fuse import AttentionOf, find_attentions
from batchgen.engine.device import Device, upload
from batchgen.engine.families.loading import LoadModule, load_scheduler, shifted_scheduler
from batchgen.engine.modulation import hoist_modulations
from batchgen.engine.rules import check_true_cfg
from batchgen.manifest import Picture


@dataclass(frozen=True, slots=True)
class Text:
    """Encoded prompts."""

    # [R, S, width of the text encoder].
    tokens: Tensor
    # [R, pooled width of the text encoder]; None where the family pools none.
    pooled: Tensor | None = None
    # How many tokens of each row are its own; the others are padding. None: every token is.
    lengths: tuple[int, ...] | None = None

    def rows(self, index: Sequence[int]) -> Text:
        """The text of these rows, in this order. A row may appear several times."""
        rows = upload(index, self.tokens.device, torch.int64)
        return Text(
            self.tokens[rows],
            None if self.pooled is None else self.pooled[rows],
            None if self.lengths is None else tuple(self.lengths[row] for row in index),
        )


@dataclass(frozen=True, slots=True)
class Schedule:
    """Noise levels of a denoising loop, fp32."""

    # [N + 1], falling; on the host, which reads two of them at each step.
    sigmas: Tensor
    # [N], as the model is told them; on the device.
    timesteps: Tensor


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all steps of a group share."""

    # [R, S, D], as the blocks take it.
    text: Tensor
    # [N, R, D]: each step's embedding of time, guidance and pooled text.
    temb: Tensor
    # Cosines and sines, text first: [S + T, ·], or [R, S + T, ·] where rows differ in them. None
    # where the family has no rotary positions.
    rotary: tuple[Tensor, Tensor] | None
    # How many text tokens of each row are attended to, the first ones; None: all of them.
    lengths: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Tokens:
    """What flows through the blocks: this rank's share of the tokens."""

    # [R, T, D].
    image: Tensor
    # [R, S, D].
    text: Tensor

    def rows(self, index: Tensor) -> Tokens:
        """The tokens of these rows, in this order."""
        return Tokens(self.image.index_select(0, index), self.text.index_select(0, index))


class Family(ABC):
    """A loaded model of one family: a transformer of diffusers' MMDiT blocks, and what serves it.

    Techniques change `transformer` and its `blocks` in place (LoRA, modulation, quantization,
    attention), or replace the list's entries (compilation). `block` calls what they have become.
    """

    # How the axes (B, C', r, p, c, p) of latent pixels are ordered in tokens: B, r, c, and then the
    # values of a token.
    token_order: ClassVar[tuple[int, ...]]
    # p.
    patch: int = 2
    # Type of the latents between two steps; None: the device's, as in most pipelines.
    latents_dtype: ClassVar[torch.dtype | None] = None
    # Whether texts keep their lengths in a group: `Conditions.lengths` may be given.
    ragged: ClassVar[bool] = False
    # Whether classifier-free guidance keeps the length of every token's velocity: it turns it only.
    renormalised: ClassVar[bool] = False
    # The VAE's class in diffusers.
    autoencoder: ClassVar[Any] = diffusers.AutoencoderKL
    # The transformer's blocks, in the order of the data.
    blocks: list[Any]
    # The largest text encoder.
    text: nn.Module
    # All text encoders.
    encoders: tuple[nn.Module, ...]

    def __init__(self, folder: Path, device: Device, load: LoadModule, transformer: Any) -> None:
        """Load the parts that all families have.

        :param load: loads a module. Full-size benchmarks make weights up.
        :param transformer: its class in diffusers.
        """
        self._device = device
        self.transformer = load(folder, "transformer", transformer, device)
        self.vae = load(folder, "vae", self.autoencoder, device)
        self._scheduler = load_scheduler(folder)
        self._sigmas: Sequence[float] = ()

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> Text:
        """Text of the prompts, one row each, padded to the job's `max_sequence_length`."""

    def cfg_scale(self, picture: Picture) -> float:
        """Scale of the picture's classifier-free guidance. At 1 or below there is none.

        It is `guidance`, unless the family has another use for that.

        :raises JobError: a `true_cfg` that would change nothing.
        """
        check_true_cfg(picture.true_cfg, contrasts=True)
        return picture.guidance

    @abstractmethod
    def conditions(
        self, text: Text, timesteps: Tensor, guidance: Tensor, size: tuple[int, int]
    ) -> Conditions:
        """Everything that does not depend on the latents.

        :param timesteps: [N], fp32, as scheduled. Families differ in when they round them.
        :param guidance: [R], fp32. Families without embedded guidance ignore it.
        :param size: (width, height) in pixels.
        """

    def embed(self, latents: Tensor, size: tuple[int, int]) -> Tensor:  # noqa: ARG002 - SD3 asks
        """Latents [R, T, C] → image tokens [R, T, D], each embedded alike wherever it stands.

        :param size: (width, height) in pixels.
        """
        tokens: Tensor = self.transformer.x_embedder(latents)
        return tokens

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
        text, image = self.blocks[index](
            hidden_states=image,
            encoder_hidden_states=text,
            temb=modulation,
            image_rotary_emb=rotary,
        )
        return image, text

    def lora_targets(self) -> Mapping[str, nn.Module]:
        """What a LoRA may change, by its folder in the model: transformer and text encoders.

        Of a language model, that is the part which is loaded.
        """
        return {"transformer": self.transformer, "text_encoder": self.text}

    def noise_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(C', h, w) of a picture of width × height pixels."""
        config = self.vae.config
        reduction = 2 ** (len(config.block_out_channels) - 1)
        return config.latent_channels, height // reduction, width // reduction

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """(r, c) of a picture of width × height pixels."""
        _, high, wide = self.noise_shape(width, height)
        return high // self.patch, wide // self.patch

    def image_tokens(self, width: int, height: int) -> int:
        """T of a picture of width × height pixels, with the tokens that `embed` adds."""
        rows, columns = self.grid(width, height)
        return rows * columns

    def pack(self, noise: Tensor) -> Tensor:
        """[B, C', h, w] → latents as the transformer takes them, [B, T, C]."""
        (batch, channels, high, wide), p = noise.shape, self.patch
        axes = noise.view(batch, channels, high // p, p, wide // p, p)
        return axes.permute(self.token_order).reshape(batch, -1, p * p * channels)

    def unpatchify(self, latents: Tensor, width: int, height: int) -> Tensor:
        """[B, T, C] → [B, C', h, w]: `pack` undone."""
        (channels, high, wide), p = self.noise_shape(width, height), self.patch
        axes = len(latents), channels, high // p, p, wide // p, p
        ordered = latents.view([axes[axis] for axis in self.token_order])
        back = [self.token_order.index(axis) for axis in range(len(axes))]
        return ordered.permute(back).reshape(-1, channels, high, wide)

    def unpack(self, latents: Tensor, width: int, height: int) -> Tensor:
        """Latents [B, T, C] → what the VAE decodes, [B, C', h, w], scaled and shifted."""
        config = self.vae.config
        pixels = self.unpatchify(latents.to(self._device.dtype), width, height)
        scaled: Tensor = pixels / config.scaling_factor + config.shift_factor
        return scaled

    def state_levels(self, shift: float | None, sigmas: Sequence[float]) -> None:
        """Take what a job states of the noise levels in the place of what the checkpoint does.

        :param shift: of all pictures alike; None: the checkpoint's. It stands for the scheduler's
            whole way to move levels: its shift with the size, its end, its curve.
        :param sigmas: a step each, before the shift; none: those of `levels`.
        """
        self._sigmas = sigmas
        if shift is not None:
            self._scheduler = shifted_scheduler(self._scheduler, shift)

    def schedule(self, steps: int, width: int, height: int) -> Schedule:
        """The noise levels of a picture, as the checkpoint's scheduler spaces and shifts them.

        With dynamic shift, larger pictures stay noisy for longer. A job may state both otherwise.

        :param steps: as many as the stated levels, or fewer: the first ones.
        """
        rows, columns = self.grid(width, height)
        # Schedulers without dynamic shift do not read it.
        mu = self.shift(rows * columns, steps)
        stated = {"sigmas": self._sigmas[:steps]} if self._sigmas else self.levels(steps)
        self._scheduler.set_timesteps(**stated, mu=mu, device="cpu")
        timesteps = upload(self._scheduler.timesteps, self._device.kind)
        return Schedule(self._scheduler.sigmas, timesteps)

    def levels(self, steps: int) -> dict[str, Any]:
        """What the scheduler's `set_timesteps` is told of N steps: their number or their levels.

        Most pipelines give it N evenly spaced levels from 1 to 1/N, to be shifted.
        """
        return {"sigmas": np.linspace(1.0, 1 / steps, steps)}

    def shift(self, tokens: int, steps: int) -> float:  # noqa: ARG002 - FLUX.2 reads both
        """By how much a dynamic shift moves the noise levels of T tokens: its exponent."""
        config = self._scheduler.config
        mu: float = calculate_shift(
            tokens,
            config.base_image_seq_len,
            config.max_image_seq_len,
            config.base_shift,
            config.max_shift,
        )
        return mu

    def modulator(self) -> nn.Module:
        """Take what computes modulations out of the transformer, once; see `modulation.py`.

        It takes the embedding of some steps, [n, R, D], and gives each block's modulation,
        [n, R, M]. A further one is for `head`.
        """
        return hoist_modulations(self.blocks)

    def attentions(self) -> list[AttentionOf]:
        """Every attention of the blocks; see `attention/joint.py`."""
        return find_attentions(self.blocks)

    def modulated(self, image: Tensor, modulation: Tensor) -> Tensor:
        """Image tokens [R, T, D] as the first block's attention sees them: TeaCache's signal."""
        shifted: Tensor = self.transformer.transformer_blocks[0].norm1(image, emb=modulation)[0]
        return shifted

    def head(self, image: Tensor, temb: Tensor) -> Tensor:
        """The velocity [R, T, C], of the latents' type: a modulated norm and a linear.

        :param image: [R, T, D], after the last block.
        :param temb: [R, D], of the step; where the modulator makes one more modulation than there
            are blocks, this one.
        """
        velocity: Tensor = self.transformer.proj_out(self.transformer.norm_out(image, temb))
        return velocity
