"""Decoding by several ranks, or by one whose memory is short: the pictures of a batch spread over ranks, or one large picture in bands.

`decode_in_bands` walks the modules of diffusers' `AutoencoderKL` decoder over `Bands`. It gives the undivided decode, up to rounding, and
refuses decoders whose modules it does not know. Everything here is called by all ranks alike.

Legend: B pictures, C channels, h×w latent pixels, H×W px.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.autoencoders.vae import Decoder
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D, UpDecoderBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional as F

from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.vae.bands import Bands, Layer, split
from batchgen.errors import ModelError


def decode_in_bands(vae: Any, latents: Tensor, ranks: Ranks, bands: int = 1) -> Tensor:
    """What `vae.decode(latents)` gives, [B, 3, H, W] in [-1, 1], on every rank the same bits.

    :param vae: diffusers' `AutoencoderKL`; its slicing and tiling settings do not matter.
    :param latents: [B, C, h, w], the same on every rank.
    :param bands: how many each rank works through; fewer where there are not that many rows.
    :raises ModelError: see `check_bandable`.
    :raises JobError: fewer rows than ranks.
    """
    check_bandable(vae)
    with torch.inference_mode():
        decoder = vae.decoder
        picture = split(
            latents if vae.post_quant_conv is None else vae.post_quant_conv(latents), ranks, bands
        )
        picture.pass_through(decoder.conv_in)
        _resnet(decoder.mid_block.resnets[0], picture)
        for attention, resnet in zip(
            decoder.mid_block.attentions, decoder.mid_block.resnets[1:], strict=True
        ):
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


def spread(latents: Tensor, decode: Layer, ranks: Ranks) -> Tensor:
    """`decode(latents)` on every rank, where each has decoded its share of the pictures, undivided.

    A rank without a picture, where there are more ranks than pictures, decodes the first one and drops it: so it learns shape and dtype,
    and it would only wait for the others.

    :param latents: [B, …], the same on every rank.
    :param decode: [b, …] → [b, …], any b ≥ 1.
    """
    share = ranks.split(latents, dim=0)
    decoded = decode(share) if len(share) else decode(latents[:1])[:0]
    return ranks.gather(decoded, len(latents), dim=0)


def _norm_act_conv(picture: Bands, norm: nn.GroupNorm, act: Layer, conv: Layer) -> None:
    """Normalized and activated inside the window: two copies of a band less than all bands' at once."""
    normalize = picture.normalizer(norm)
    picture.pass_through(lambda window: conv(act(normalize(window))))


def _resnet(block: Any, picture: Bands) -> None:
    """`ResnetBlock2D` without time embedding."""
    hidden = replace(
        picture, parts=picture.parts.copy()
    )  # the tensors are shared: the residual needs them
    _norm_act_conv(hidden, block.norm1, block.nonlinearity, block.conv1)
    _norm_act_conv(hidden, block.norm2, block.nonlinearity, block.conv2)
    for _ in range(len(picture.parts)):
        part = picture.parts.popleft()
        picture.parts.append(
            (part if block.conv_shortcut is None else block.conv_shortcut(part))
            + hidden.parts.popleft()
        )


def _attention(attention: Any, picture: Bands) -> None:
    """`Attention` over all pixels: a band's queries, everyone's keys and values."""
    normalize = picture.normalizer(attention.group_norm)
    tokens = [
        normalize(part).flatten(2).transpose(1, 2) for part in picture.parts
    ]  # [B, rows·W, C]
    keys, values = (  # [B, heads, h·w, C / heads]
        _heads(picture.join(map(project, tokens), dim=1), attention.heads)
        for project in (attention.to_k, attention.to_v)
    )
    for own in tokens:
        queries = _heads(attention.to_q(own), attention.heads)
        seen = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        part = picture.parts.popleft()
        picture.parts.append(part + attention.to_out[0](seen).transpose(1, 2).reshape(part.shape))


def _heads(tokens: Tensor, heads: int) -> Tensor:
    """[B, tokens, C] → [B, heads, tokens, C / heads]."""
    return torch.unflatten(tokens, 2, (heads, -1)).transpose(1, 2)


def _same_size(conv: nn.Conv2d) -> bool:
    """3×3 or 1×1, padded with zeros to the size it was given."""
    kernel = conv.kernel_size[0]
    square = (
        conv.kernel_size == (kernel, kernel)
        and conv.padding == (kernel // 2, kernel // 2)
        and conv.padding_mode == "zeros"
    )
    return square and kernel in (1, 3) and conv.stride == (1, 1) and conv.dilation == (1, 1)


# Every module a decoder may hold, and what must hold for it: exactly these classes, because a subclass may compute anything.
_KNOWN: dict[type[Any], Callable[[Any], bool]] = {
    ResnetBlock2D: lambda block: (
        block.time_emb_proj is block.upsample is block.downsample is None
        and block.time_embedding_norm in ("default", "group")
        and block.output_scale_factor == 1
    ),
    Upsample2D: lambda layer: (
        layer.use_conv and layer.interpolate and layer.name == "conv" and layer.norm is None
    ),
    Attention: lambda layer: (
        type(layer.processor) is AttnProcessor2_0
        and layer.group_norm is not None
        and layer.spatial_norm is layer.norm_q is layer.norm_k is layer.add_k_proj is None
        and layer.residual_connection
        and layer.rescale_output_factor == 1
    ),
    nn.Conv2d: _same_size,
    nn.GroupNorm: lambda norm: norm.affine,
    nn.Dropout: lambda dropout: dropout.p == 0,
    **dict.fromkeys(
        (
            Decoder,
            UNetMidBlock2D,
            UpDecoderBlock2D,
            nn.ModuleList,
            nn.Linear,
            nn.SiLU,
            nn.GELU,
            nn.ReLU,
            nn.Mish,
        ),
        lambda _: True,
    ),
}


def check_bandable(vae: Any) -> None:
    """Know every module of the decoder, or refuse it: one that looks beyond a band unnoticed would leave seams.

    :raises ModelError: a module of an unknown class or setting.
    """
    before = [] if vae.post_quant_conv is None else [("post_quant_conv", vae.post_quant_conv)]
    for name, module in [*before, *vae.decoder.named_modules(prefix="decoder")]:
        if type(module) not in _KNOWN or not _KNOWN[type(module)](module):
            raise ModelError(
                f"vae.{name}: {type(module).__name__} as it is set up here is unknown to decoding in bands, which takes diffusers' "
                "AutoencoderKL with its own modules and attention processor. Decode undivided, in a size that fits the device"
            )
