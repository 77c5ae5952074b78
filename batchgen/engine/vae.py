"""Latents → pixels: a batch whole, shared out over the ranks; a very large picture in bands.

Both are the undivided decode, up to rounding: never tiles, whose seams and statistics change the picture.

Legend: B pictures, b of them at once, C' latent channels, h×w latent pixels, H×W px.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from batchgen.engine.decoder import decode_in_bands, spread
from batchgen.engine.family import Family
from batchgen.engine.ranks import Ranks

# Pictures are decoded together up to this many px: one of 1024×1024, sixteen of 256×256. The VAE's activations take some 4 kB a px in bf16,
# and a larger batch is no faster once a single picture fills the device.
PIXELS_AT_ONCE = 1024 * 1024
# From here on several ranks decode one picture together, a band each: below, a picture takes a rank less time than the exchanges would.
LARGE = 2048 * 2048
# From here on a rank takes several bands, layer by layer: two thirds of the memory, and no tensor of more than 2^31 elements.
HUGE, BANDS = 4096 * 4096, 8


def decode_latents(family: Family, latents: Tensor, width: int, height: int, ranks: Ranks) -> npt.NDArray[np.uint8]:
    """Pixels of a group, uint8 [B, H, W, 3], RGB, rounded as diffusers' `VaeImageProcessor` does; the same bits on every rank."""
    unpacked = family.unpack(latents, width, height)
    large = width * height >= (LARGE if ranks.degree > 1 else HUGE)
    if large:
        bands = BANDS if width * height >= HUGE else 1
        parts = [_to_pixels(decode_in_bands(family.vae, part, ranks, bands)) for part in torch.split(unpacked, 1)]
    else:
        at_once = max(1, PIXELS_AT_ONCE // (width * height))
        parts = [spread(unpacked, lambda mine: torch.cat([_decode(family, part) for part in torch.split(mine, at_once)]), ranks)]
    return torch.cat(parts).cpu().contiguous().numpy()


def _decode(family: Family, latents: Tensor) -> Tensor:
    """[b, C', h, w] → [b, H, W, 3]."""
    image: Tensor = family.vae.decode(latents, return_dict=False)[0]
    return _to_pixels(image)


def _to_pixels(image: Tensor) -> Tensor:
    """[b, 3, H, W] in [-1, 1] → uint8 [b, H, W, 3]."""
    return ((image * 0.5 + 0.5).clamp(0, 1).float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
