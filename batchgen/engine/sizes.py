"""How the decoding of pictures is portioned: numbers alone, for the VAE and for planning. No torch.

Small pictures are decoded together, large ones in bands (`vae/`).
"""

from __future__ import annotations

# Pixels that are decoded together: one picture of 1024×1024, or sixteen of 256×256. The VAE's
# activations take some 2 kB a pixel in bf16, and once a picture fills the device, more pictures
# at once are no faster.
PIXELS_AT_ONCE = 1024 * 1024
# From this size on several ranks decode one picture together, a band each. A smaller picture takes
# one rank less time than the exchanges would.
LARGE = 2048 * 2048
# From this size on a rank takes several bands, layer by layer: less than half of the memory, and no
# tensor of 2^31 elements or more, which kernels index with 32 bits. A VAE of these families holds
# 256 channels at full size, so a picture decoded whole reaches that at 2^23 px, 2896×2896.
HUGE, BANDS = 2**23, 8
# Pictures that a scorer sees together. More are no faster, and a group may have a thousand.
SCORED_AT_ONCE = 8
# The largest band: half of that.
_BAND = HUGE // 2


def at_once(width: int, height: int) -> int:
    """How many pictures of a size, in pixels, are decoded together where each is decoded whole."""
    return max(1, PIXELS_AT_ONCE // (width * height))


def bands(width: int, height: int, ranks: int) -> int:
    """How many bands of a picture each rank decodes, one after the other; 0 if it stays whole."""
    px = width * height
    if px >= HUGE:
        return max(BANDS, -(-px // (ranks * _BAND)))
    return 1 if ranks > 1 and px >= LARGE else 0
