"""Latents → pixels.

Legend: B pictures, b of them at once, C latent channels, h×w latent pixels, H×W px.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from batchgen.engine.family import Family

# Pictures are decoded together up to this many px: one of 1024×1024, sixteen of 256×256. The VAE's activations take some 4 kB a px in bf16,
# and a larger batch is no faster once a single picture fills the device.
PIXELS_AT_ONCE = 1024 * 1024


def decode_latents(family: Family, latents: Tensor, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Pixels of a group, uint8 [B, H, W, 3], RGB, rounded as diffusers' `VaeImageProcessor` does."""
    parts = []
    for part in torch.split(latents, max(1, PIXELS_AT_ONCE // (width * height))):
        image: Tensor = family.vae.decode(family.unpack(part, width, height), return_dict=False)[0]  # [b, 3, H, W] in [-1, 1]
        unit = (image * 0.5 + 0.5).clamp(0, 1).float()
        parts.append((unit * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu())
    return torch.cat(parts).contiguous().numpy()
