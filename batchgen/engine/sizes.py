"""How the decoding of pictures is portioned: numbers alone, so that planning can estimate memory without torch.

Small pictures are decoded together, large ones in bands; `vae.py` and `decoder.py` do it.
"""

from __future__ import annotations

# Pictures are decoded together up to this many px: one of 1024×1024, sixteen of 256×256. The VAE's activations take some 4 kB a px in bf16,
# and a larger batch is no faster once a single picture fills the device.
PIXELS_AT_ONCE = 1024 * 1024
# From here on several ranks decode one picture together, a band each: below, a picture takes a rank less time than the exchanges would.
LARGE = 2048 * 2048
# From here on a rank takes several bands, layer by layer: two thirds of the memory, and no tensor of more than 2^31 elements.
HUGE, BANDS = 4096 * 4096, 8


def at_once(width: int, height: int) -> int:
    """How many pictures of a size, px, are decoded together where each is decoded whole."""
    return max(1, PIXELS_AT_ONCE // (width * height))


def bands(width: int, height: int, ranks: int) -> int:
    """How many bands of a picture each of the ranks decodes, one after the other; 0: pictures are decoded whole."""
    px = width * height
    if px >= HUGE:
        return BANDS
    return 1 if ranks > 1 and px >= LARGE else 0
