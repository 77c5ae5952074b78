"""A VAE of videos as a VAE of pictures: diffusers' `AutoencoderKLQwenImage` for one frame.

A picture is a video of one frame, and nothing comes before it. For that frame

    a causal convolution over time   sees zeros and the frame: of its kernel only the last slice
                                     counts, which is a kernel over pixels
    a norm                           is of each pixel's channels
    attention                        is among the pixels of a frame, as in other VAEs
    upsampling over time             begins with the second frame

So the decoder becomes one of diffusers' modules over pixels. It decodes the same picture up to
rounding, with a third of the weights, in the memory formats and bands of other VAEs, and compiled
as they are. The encoder is dropped.

Not covered: videos; encoding.

Legend: B pictures, C channels, C' latent channels, h×w latent pixels, H×W px.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import (
    QwenImageAttentionBlock,
    QwenImageCausalConv3d,
    QwenImageResample,
    QwenImageRMS_norm,
)
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

# The least length of a pixel's channels by which they are divided, as in diffusers.
_LEAST = 1e-12


class ChannelNorm(nn.Module):
    """The channels of each pixel, divided by their root mean square: x · √C / ‖x‖ · weight."""

    def __init__(self, weight: Tensor) -> None:
        """:param weight: [C]."""
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, …] → the same, computed in fp32 and rounded once."""
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32)
        weight = self.weight.float() * len(self.weight) ** 0.5
        unit: Tensor = x / length.clamp_min(_LEAST)
        return unit.mul_(weight.view(-1, *[1] * (x.ndim - 2))).to(x.dtype)


class FrameDecoder(nn.Module):
    """The decoder, its parts named as those of diffusers' `Decoder`."""

    def __init__(self, decoder: Any) -> None:
        """:param decoder: diffusers' `QwenImageDecoder3d`, whose parts take pixels."""
        super().__init__()
        self.conv_in, self.mid_block = decoder.conv_in, decoder.mid_block
        self.up_blocks = decoder.up_blocks
        self.conv_norm_out, self.conv_act = decoder.norm_out, decoder.nonlinearity
        self.conv_out = decoder.conv_out

    def forward(self, latents: Tensor) -> Tensor:
        """[B, C', h, w] → [B, 3, H, W]."""
        x = self.mid_block(self.conv_in(latents))
        for block in self.up_blocks:
            x = block(x)
        pixels: Tensor = self.conv_out(self.conv_act(self.conv_norm_out(x)))
        return pixels


class OneFrameVae(AutoencoderKLQwenImage):
    """What a VAE of videos becomes. `one_frame` changes its class; the configuration stays."""

    decoder: nn.Module
    post_quant_conv: nn.Module

    def decode(self, z: Tensor, return_dict: bool = True) -> Any:
        """[B, C', h, w] → [B, 3, H, W], in [-1, 1] but for overshoots, which the caller cuts."""
        pixels = self.decoder(self.post_quant_conv(z))
        return DecoderOutput(sample=pixels) if return_dict else (pixels,)


@torch.no_grad()
def one_frame(vae: Any) -> Any:
    """Turn a VAE of videos into a VAE of pictures, in place; another one stays as it is."""
    kind: type[Any] = AutoencoderKLQwenImage
    if type(vae) is kind:
        del vae.encoder, vae.quant_conv
        _convert(vae)
        vae.decoder = FrameDecoder(vae.decoder)
        vae.__class__ = OneFrameVae
        vae.eval()
    return vae


def _convert(module: nn.Module) -> None:
    """Replace every part that knows time."""
    for name, child in list(module.named_children()):
        if (over_pixels := _OVER_PIXELS.get(type(child))) is not None:
            setattr(module, name, over_pixels(child))
        else:
            _convert(child)


def _fill(layer: nn.Linear | nn.Conv2d, weight: Tensor, bias: Tensor | None) -> None:
    # Copies: a view would keep the kernel of all frames in memory.
    layer.weight = nn.Parameter(weight.contiguous().clone(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone(), requires_grad=False)


def _convolution(conv: Any) -> nn.Conv2d:
    assert conv.stride == (1, 1, 1), "the decoder has no strides"
    kernel, (left, _, top, *_) = conv.kernel_size[1:], conv._padding
    with torch.device("meta"):
        flat = nn.Conv2d(conv.in_channels, conv.out_channels, kernel, padding=(top, left))
    _fill(flat, conv.weight[:, :, -1], conv.bias)
    return flat


def _norm(norm: Any) -> ChannelNorm:
    assert norm.channel_first, "channels come second in all of the decoder"
    return ChannelNorm(norm.gamma.flatten().clone())


def _attention(block: Any) -> Any:
    """Linears take the place of convolutions over one pixel."""
    with torch.device("meta"):
        attention: Any = Attention(
            block.dim,
            heads=1,
            dim_head=block.dim,
            bias=True,
            norm_num_groups=1,
            residual_connection=True,
        )
    attention.group_norm = _norm(block.norm)
    weights, biases = block.to_qkv.weight[:, :, 0, 0].chunk(3), block.to_qkv.bias.chunk(3)
    linears = attention.to_q, attention.to_k, attention.to_v
    for linear, weight, bias in zip(linears, weights, biases, strict=True):
        _fill(linear, weight, bias)
    _fill(attention.to_out[0], block.proj.weight[:, :, 0, 0], block.proj.bias)
    return attention


def _upsampling(layer: Any) -> Upsample2D:
    """Doubled by repetition, then a convolution."""
    assert layer.mode in ("upsample2d", "upsample3d"), "the decoder only enlarges"
    conv = layer.resample[1]
    with torch.device("meta"):
        flat = Upsample2D(conv.in_channels, use_conv=True, out_channels=conv.out_channels)
    flat.conv = conv
    return flat


_OVER_PIXELS: dict[type[Any], Callable[[Any], Any]] = {
    QwenImageCausalConv3d: _convolution,
    QwenImageRMS_norm: _norm,
    QwenImageAttentionBlock: _attention,
    QwenImageResample: _upsampling,
}
