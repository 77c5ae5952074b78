"""Decode one large picture in bands: over several ranks, or on one whose memory is short.

`decode_in_bands` walks the modules of diffusers' `AutoencoderKL` decoder over `Bands`, or those of
`one_frame.py`. It gives the undivided decode, up to rounding, and refuses decoders with modules
that it does not know. All ranks must call it alike.

Legend: B pictures, C channels, h×w latent pixels, H×W px.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import (
    QwenImageMidBlock,
    QwenImageResidualBlock,
    QwenImageUpBlock,
)
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D, UpDecoderBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.vae.bands import Bands, Layer, split
from batchgen.engine.vae.one_frame import ChannelNorm, FrameDecoder
from batchgen.errors import ModelError


@torch.inference_mode()
def decode_in_bands(vae: Any, latents: Tensor, ranks: Ranks, bands: int = 1) -> Tensor:
    """Decode as `vae.decode(latents)` does: [B, 3, H, W] in [-1, 1], the same bits on every rank.

    :param vae: diffusers' `AutoencoderKL`, or `OneFrameVae`; slicing and tiling have no effect.
    :param latents: [B, C, h, w], the same on every rank.
    :param bands: how many each rank works through; fewer if there are not so many rows.
    :raises ModelError: the decoder has an unknown module; see `check_bandable`.
    :raises JobError: there are fewer rows than ranks.
    """
    check_bandable(vae)
    decoder, middle = vae.decoder, vae.decoder.mid_block
    before = vae.post_quant_conv or nn.Identity()
    picture = split(before(latents), ranks, bands)
    picture.pass_through(decoder.conv_in)
    _resnet(middle.resnets[0], picture)
    for attention, resnet in zip(middle.attentions, middle.resnets[1:], strict=True):
        if attention is not None:
            _attention(attention, picture)
        _resnet(resnet, picture)
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            _resnet(resnet, picture)
        for upsampler in block.upsamplers or ():
            picture.pass_through(upsampler, scale=2)
    _norm_act_conv(picture, decoder.conv_norm_out, decoder.conv_act, decoder.conv_out)
    return picture.join(picture.parts, dim=2).contiguous()


def _normalizer(picture: Bands, norm: nn.GroupNorm | ChannelNorm) -> Layer:
    """The norm for any rows of the picture. That of a pixel's channels sees no other pixel."""
    return norm if isinstance(norm, ChannelNorm) else picture.normalizer(norm)


def _norm_act_conv(
    picture: Bands,
    norm: nn.GroupNorm | ChannelNorm,
    act: Layer,
    conv: Layer,
    *,
    beside: Layer | None = None,
) -> deque[Tensor]:
    """Norm, activation and convolution in one pass: only one band's copies exist at a time.

    :param beside: see `Bands.pass_through`.
    """
    normalize = _normalizer(picture, norm)
    return picture.pass_through(lambda window: conv(act(normalize(window))), beside=beside)


def _resnet(block: Any, picture: Bands) -> None:
    """`ResnetBlock2D` without time embedding, or `QwenImageResidualBlock`."""
    # A block that halves the channels does so to both its ways at once. A band and what was made of
    # it are then never there together, and they are largest where such a block comes first.
    shortcut = block.conv_shortcut or nn.Identity()
    residual = _norm_act_conv(
        picture, block.norm1, block.nonlinearity, block.conv1, beside=shortcut
    )
    _norm_act_conv(picture, block.norm2, block.nonlinearity, block.conv2)
    while residual:
        picture.parts.append(residual.popleft() + picture.parts.popleft())


def _attention(attention: Any, picture: Bands) -> None:
    """`Attention` over all pixels: queries of one band, keys and values of the whole picture."""
    normalize = _normalizer(picture, attention.group_norm)
    tokens = [normalize(part).flatten(2).transpose(1, 2) for part in picture.parts]  # [B, n, C]
    keys, values = (
        _heads(picture.join(map(project, tokens), dim=1), attention.heads)
        for project in (attention.to_k, attention.to_v)
    )
    for own in tokens:
        queries = _heads(attention.to_q(own), attention.heads)
        seen = scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        part = picture.parts.popleft()
        picture.parts.append(part + attention.to_out[0](seen).transpose(1, 2).reshape(part.shape))


def _heads(tokens: Tensor, heads: int) -> Tensor:
    """[B, n, C] → [B, heads, n, C / heads]."""
    return torch.unflatten(tokens, 2, (heads, -1)).transpose(1, 2)


def check_bandable(vae: Any) -> None:
    """Check that every module of the decoder is known.

    An unknown module might look beyond a band, and the picture would have seams.

    :raises ModelError: a module has an unknown class or setting.
    """
    before = [] if vae.post_quant_conv is None else [("post_quant_conv", vae.post_quant_conv)]
    for name, module in [*before, *vae.decoder.named_modules(prefix="decoder")]:
        if not _KNOWN.get(type(module), lambda _: False)(module):
            raise ModelError(
                f"vae.{name}: {type(module).__name__} as it is set up here is unknown to decoding "
                "in bands, which takes diffusers' AutoencoderKL with its own modules and attention "
                "processor. Decode undivided, in a size that fits the device"
            )


def _known_resnet(block: Any) -> bool:
    return (
        block.time_emb_proj is block.upsample is block.downsample is None
        and block.time_embedding_norm in ("default", "group")
        and block.output_scale_factor == 1
    )


def _known_upsampling(layer: Any) -> bool:
    known: bool = layer.use_conv and layer.interpolate and layer.name == "conv"
    return known and layer.norm is None


def _known_attention(layer: Any) -> bool:
    return (
        type(layer.processor) is AttnProcessor2_0
        and layer.group_norm is not None
        and layer.spatial_norm is layer.norm_q is layer.norm_k is layer.add_k_proj is None
        and layer.residual_connection
        and layer.rescale_output_factor == 1
    )


def _known_convolution(conv: nn.Conv2d) -> bool:
    """3×3 or 1×1, padded with zeros to the size of its input."""
    kernel = conv.kernel_size[0]
    square = conv.kernel_size == (kernel, kernel) and conv.padding == (kernel // 2, kernel // 2)
    plain = conv.stride == (1, 1) and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
    return square and plain and kernel in (1, 3)


# Every class of module that a decoder may hold, and the condition on its settings. Subclasses are
# not accepted, because they may compute anything.
_CONTAINERS = (
    *(Decoder, UNetMidBlock2D, UpDecoderBlock2D, nn.ModuleList),
    *(FrameDecoder, QwenImageMidBlock, QwenImageUpBlock, QwenImageResidualBlock),
)
_PIXELWISE = (nn.Linear, nn.SiLU, nn.GELU, nn.ReLU, nn.Mish, nn.Identity, ChannelNorm)
_KNOWN: dict[type[Any], Callable[[Any], bool]] = {
    ResnetBlock2D: _known_resnet,
    Upsample2D: _known_upsampling,
    Attention: _known_attention,
    nn.Conv2d: _known_convolution,
    nn.GroupNorm: lambda norm: norm.affine,
    nn.Dropout: lambda dropout: dropout.p == 0,
    **dict.fromkeys((*_CONTAINERS, *_PIXELWISE), lambda _: True),
}
