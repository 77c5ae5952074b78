"""The VAEs whose pictures have no time: diffusers' `AutoencoderKL` and FLUX.2's."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import prod
from typing import Annotated, Literal

from pydantic import Field

from batchgen.model.components.config import (
    Above0,
    Blocks,
    Component,
    DiffusersConfig,
    Number,
    Size,
)
from batchgen.model.components.tensors import Tensors, convolution, linear, normalised, under


class Autoencoder(DiffusersConfig):
    """What the VAEs of all families have."""

    in_channels: Size = 3
    out_channels: Literal[3] = 3
    down_block_types: tuple[Literal["DownEncoderBlock2D"], ...]
    up_block_types: tuple[Literal["UpDecoderBlock2D"], ...]
    # Two or more: planning estimates the memory of decoding from the last two blocks.
    block_out_channels: Annotated[tuple[Size, ...], Field(min_length=2, max_length=8)]
    layers_per_block: Blocks = 1
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    latent_channels: Size
    norm_num_groups: Size = 32
    sample_size: Size | tuple[Size, Size] = 32
    # Of older versions, and without effect: the VAE has the other models' precision.
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    @property
    def reduction(self) -> int:
        """See `AnyVae`."""
        return int(2 ** (len(self.block_out_channels) - 1))

    @property
    def decoder_channels(self) -> tuple[int, ...]:
        """Of the decoder's blocks, in the order of `block_out_channels`."""
        return self.block_out_channels

    def _contradictions(self) -> Iterator[str]:
        channels, groups = self.block_out_channels, self.norm_num_groups
        if not len(channels) == len(self.down_block_types) == len(self.up_block_types):
            lists = "block_out_channels, down_block_types and up_block_types"
            yield f"{lists}: expected equal lengths"
        if any(count % groups for count in channels):
            yield (
                f"norm_num_groups = {groups}: expected a divisor of every number in "
                f"block_out_channels = {list(channels)}"
            )

    def tensors(self) -> Tensors:
        """See `Config`."""
        channels, latent = self.block_out_channels, self.latent_channels
        decoder = self.decoder_channels
        yield from under("encoder", _encoder(self))
        yield from under("decoder", _decoder(self))
        for coder, wide, into, middle in (
            ("encoder", self.in_channels, channels[0], channels[-1]),
            ("decoder", latent, decoder[-1], decoder[-1]),
        ):
            yield from convolution(f"{coder}.conv_in", into, wide, 3)
            yield from under(
                f"{coder}.mid_block", _middle(middle, attention=self.mid_block_add_attention)
            )
        yield from normalised("encoder.conv_norm_out", channels[-1])
        yield from convolution("encoder.conv_out", 2 * latent, channels[-1], 3)
        yield from normalised("decoder.conv_norm_out", decoder[0])
        yield from convolution("decoder.conv_out", self.out_channels, decoder[0], 3)
        if self.use_quant_conv:
            yield from convolution("quant_conv", 2 * latent, 2 * latent, 1)
        if self.use_post_quant_conv:
            yield from convolution("post_quant_conv", latent, latent, 1)


class Vae(Autoencoder):
    """Of diffusers' `AutoencoderKL`."""

    scaling_factor: Above0
    shift_factor: Number
    latents_mean: tuple[Number, ...] | None = None
    latents_std: tuple[Number, ...] | None = None


class Flux2Vae(Autoencoder):
    """Of diffusers' `AutoencoderKLFlux2`: a batch norm takes the place of scale and shift."""

    layers_per_block: Blocks = 2
    latent_channels: Size = 32
    sample_size: Size | tuple[Size, Size] = 1024
    decoder_block_out_channels: Annotated[tuple[Size, ...], Field(min_length=2)] | None = None
    batch_norm_eps: Above0 = 1e-4
    batch_norm_momentum: Number = 0.1
    patch_size: tuple[Literal[2], Literal[2]] = (2, 2)

    @property
    def decoder_channels(self) -> tuple[int, ...]:
        """See `Autoencoder`."""
        return self.decoder_block_out_channels or self.block_out_channels

    def _contradictions(self) -> Iterator[str]:
        yield from super()._contradictions()
        channels, groups = self.decoder_channels, self.norm_num_groups
        if len(channels) != len(self.block_out_channels) or any(each % groups for each in channels):
            yield (
                f"decoder_block_out_channels = {list(channels)}: expected as many numbers as in "
                f"block_out_channels, multiples of norm_num_groups = {groups}"
            )

    def tensors(self) -> Tensors:
        """See `Config`."""
        yield from super().tensors()
        for name in ("running_mean", "running_var"):
            yield f"bn.{name}", (prod(self.patch_size) * self.latent_channels,)


def _encoder(config: Autoencoder) -> Tensors:
    """The blocks in which pictures shrink: all but the last halve a side."""
    channels = config.block_out_channels
    for block, (into, out) in enumerate(pairwise((channels[0], *channels))):
        for layer in range(config.layers_per_block):
            resnet = f"down_blocks.{block}.resnets.{layer}"
            yield from under(resnet, _resnet(out if layer else into, out))
        if block < len(channels) - 1:
            yield from convolution(f"down_blocks.{block}.downsamplers.0.conv", out, out, 3)


def _decoder(config: Autoencoder) -> Tensors:
    """The blocks in which pictures grow: all but the last double a side."""
    channels = config.decoder_channels[::-1]
    for block, (into, out) in enumerate(pairwise((channels[0], *channels))):
        for layer in range(config.layers_per_block + 1):
            resnet = f"up_blocks.{block}.resnets.{layer}"
            yield from under(resnet, _resnet(out if layer else into, out))
        if block < len(channels) - 1:
            yield from convolution(f"up_blocks.{block}.upsamplers.0.conv", out, out, 3)


def _middle(width: int, *, attention: bool) -> Tensors:
    for layer in range(2):
        yield from under(f"resnets.{layer}", _resnet(width, width))
    if attention:
        yield from normalised("attentions.0.group_norm", width)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            yield from linear(f"attentions.0.{part}", width, width)


def _resnet(into: int, out: int) -> Tensors:
    yield from normalised("norm1", into)
    yield from convolution("conv1", out, into, 3)
    yield from normalised("norm2", out)
    yield from convolution("conv2", out, out, 3)
    if into != out:
        yield from convolution("conv_shortcut", out, into, 1)


VAE = Component("diffusers", "AutoencoderKL", Vae)
FLUX2_VAE = Component("diffusers", "AutoencoderKLFlux2", Flux2Vae)
