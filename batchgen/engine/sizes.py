"""How the decoding of pictures is portioned: numbers alone, for the VAE and for planning. No torch.

Small pictures are decoded together, large ones in bands (`vae/`).
"""

from __future__ import annotations

# Pixels that are decoded together: one picture of 1024×1024, or sixteen of 256×256. The VAE's
# activations take some 4 kB a pixel in bf16, and once a picture fills the device, more pictures
# at once are no faster.
PIXELS_AT_ONCE = 1024 * 1024
# From this size on several ranks decode one picture together, a band each. A smaller picture takes
# one rank less time than the exchanges would.
LARGE = 2048 * 2048
# From this size on a rank takes several bands, layer by layer: two thirds of the memory, and no
# tensor of more than 2^31 elements.
HUGE, BANDS = 4096 * 4096, 8


def at_once(width: int, height: int) -> int:
    """How many pictures of a size, in pixels, are decoded together where each is decoded whole."""
    return max(1, PIXELS_AT_ONCE // (width * height))


def bands(width: int, height: int, ranks: int) -> int:
    """How many bands of a picture each rank decodes, one after the other; 0 if it stays whole."""
    px = width * height
    if px >= HUGE:
        return BANDS
    return 1 if ranks > 1 and px >= LARGE else 0
