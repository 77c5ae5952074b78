"""The VAE of videos that Qwen-Image decodes pictures with: diffusers' `AutoencoderKLQwenImage`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
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
from batchgen.model.components.tensors import Shape, Tensors, convolution, under

# A kernel over three frames, or over one, of 3×3 px or of one.
_CUBE, _TIME, _POINT = (3, 3, 3), (3, 1, 1), (1, 1, 1)


class QwenVae(DiffusersConfig):
    """Of diffusers' `AutoencoderKLQwenImage`."""

    base_dim: Size = 96
    z_dim: Size = 16
    # Channels of the blocks, in multiples of `base_dim`.
    dim_mult: Annotated[tuple[Size, ...], Field(min_length=2, max_length=8)] = (1, 2, 4, 4)
    num_res_blocks: Blocks = 2
    # Of the encoder.
    attn_scales: tuple[()] = ()
    # Whether a block that halves a side halves the number of frames too.
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    dropout: Annotated[float, Field(ge=0, le=0)] = 0.0
    input_channels: Literal[3] = 3
    # Of each latent channel.
    latents_mean: tuple[Number, ...]
    latents_std: tuple[Above0, ...]

    @property
    def latent_channels(self) -> int:
        """See `AnyVae`."""
        return self.z_dim

    @property
    def reduction(self) -> int:
        """See `AnyVae`."""
        return int(2 ** len(self.temperal_downsample))

    @property
    def decoder_channels(self) -> tuple[int, ...]:
        """See `AnyVae`. A block has these twice before its upsampling halves them."""
        return self._channels

    @property
    def _channels(self) -> tuple[int, ...]:
        return tuple(self.base_dim * factor for factor in self.dim_mult)

    def _contradictions(self) -> Iterator[str]:
        if len(self.temperal_downsample) != len(self.dim_mult) - 1:
            yield "temperal_downsample: expected one value less than dim_mult has"
        if any(channels % 2 for channels in self._channels):
            yield f"base_dim = {self.base_dim}: expected even numbers of channels"
        if not len(self.latents_mean) == len(self.latents_std) == self.z_dim:
            yield f"latents_mean and latents_std: expected z_dim = {self.z_dim} numbers each"

    def tensors(self) -> Tensors:
        """See `Config`."""
        latent, channels = self.z_dim, self._channels
        yield from under("encoder", self._encoder())
        yield from under("decoder", self._decoder())
        for coder, first, into, middle, last, out in (
            ("encoder", channels[0], 3, channels[-1], channels[-1], 2 * latent),
            ("decoder", channels[-1], latent, channels[-1], channels[0], 3),
        ):
            yield from _convolution(f"{coder}.conv_in", first, into, _CUBE)
            yield from under(f"{coder}.mid_block", _middle(middle))
            yield f"{coder}.norm_out.gamma", (last, 1, 1, 1)
            yield from _convolution(f"{coder}.conv_out", out, last, _CUBE)
        yield from _convolution("quant_conv", 2 * latent, 2 * latent, _POINT)
        yield from _convolution("post_quant_conv", latent, latent, _POINT)

    def _encoder(self) -> Tensors:
        """Blocks and what halves their sides stand in one list."""
        place, channels = 0, self._channels
        for block, (into, out) in enumerate(pairwise((channels[0], *channels))):
            for layer in range(self.num_res_blocks):
                yield from under(f"down_blocks.{place}", _resnet(out if layer else into, out))
                place += 1
            if block < len(channels) - 1:
                yield from convolution(f"down_blocks.{place}.resample.1", out, out, 3)
                if self.temperal_downsample[block]:
                    yield from _convolution(f"down_blocks.{place}.time_conv", out, out, _TIME)
                place += 1

    def _decoder(self) -> Tensors:
        channels, halved = self._channels[::-1], 1
        for block, (before, out) in enumerate(pairwise((channels[0], *channels))):
            into = before // halved
            for layer in range(self.num_res_blocks + 1):
                yield from under(
                    f"up_blocks.{block}.resnets.{layer}", _resnet(out if layer else into, out)
                )
            halved, upsampler = 2, f"up_blocks.{block}.upsamplers.0"
            if block < len(channels) - 1:
                yield from convolution(f"{upsampler}.resample.1", out // 2, out, 3)
                if self.temperal_downsample[::-1][block]:
                    yield from _convolution(f"{upsampler}.time_conv", 2 * out, out, _TIME)

    @classmethod
    def held(cls, name: str, shape: Shape) -> Shape | None:
        """See `Config`: the decoder, for one frame. `engine/vae/one_frame.py` says why."""
        if not name.startswith(("decoder.", "post_quant_conv.")) or ".time_conv." in name:
            return None
        return shape[:2] + shape[3:] if len(shape) == 5 else shape


def _middle(width: int) -> Tensors:
    for layer in range(2):
        yield from under(f"resnets.{layer}", _resnet(width, width))
    yield "attentions.0.norm.gamma", (width, 1, 1)
    yield from convolution("attentions.0.to_qkv", 3 * width, width, 1)
    yield from convolution("attentions.0.proj", width, width, 1)


def _resnet(into: int, out: int) -> Tensors:
    for number, width in enumerate((into, out), start=1):
        yield f"norm{number}.gamma", (width, 1, 1, 1)
        yield from _convolution(f"conv{number}", out, width, _CUBE)
    if into != out:
        yield from _convolution("conv_shortcut", out, into, _POINT)


def _convolution(name: str, out: int, into: int, kernel: tuple[int, int, int]) -> Tensors:
    """A convolution over frames and pixels."""
    yield f"{name}.weight", (out, into, *kernel)
    yield f"{name}.bias", (out,)


QWEN_VAE = Component("diffusers", "AutoencoderKLQwenImage", QwenVae)
