"""What decoding takes of its device's memory: an estimate, as `memory.py` has those of the rest.

The peak is where the decoder's last block begins, at full size. Let c₀ be the channels that this
block makes and c₁ those of the block before it. In numbers for each px:

    whole       3·c₁: what the block is given, and that normalized and activated. A block that does
                not change the number of channels takes 5·c₀
    in n bands  c₁ + 2.5·c₁/n: the bands that are not yet read and what was made of the others, all
                along c₁; one band with its neighbours' rows, that normalized, and that activated

A VAE of one frame (vae/one_frame.py) is given c₀ = c₁/2 there, which it keeps, and its norms
compute in fp32. That makes 3·c₁ and c₁ + 1.5·c₁/n: so little less that it is planned alike.

Convolutions want more. On a CPU a whole decode takes 4·c₁ (3.9 measured, of FLUX.1's VAE 4.1 kB a
px in fp32; half of it in bf16, where 2.4 were measured). On CUDA what they want is not known:
3.4·c₁ are planned, and c₁ + 3·c₁/n in bands, where a convolution sees a band. On the emulated card
(tests/cuda/), which sums tensors alone, whole pictures took 0.81 to 0.90 of it, and bands 0.86
(Qwen-Image) to 0.96.
"""

from __future__ import annotations

from batchgen.engine.sizes import at_once, bands
from batchgen.model.components.config import AnyVae
from batchgen.planning.plan import Shape

# Numbers of a picture decoded whole, for each px and each channel of the last block but one.
_WHOLE = {"cuda": 3.4, "cpu": 4.0}
# The same of a rank's only band; n bands share them.
_BAND = 3.0


def decode_memory(vae: AnyVae, shape: Shape, pictures: int, *, ranks: int, cuda: bool) -> int:
    """Numbers that decoding a group takes beside the weights, on each of the ranks.

    :param pictures: of the group.
    """
    narrow, wide = vae.decoder_channels[:2]
    px = shape.width * shape.height
    if count := bands(shape.width, shape.height, ranks):
        return int(px / ranks * (1 + _BAND / count) * max(wide, 2 * narrow))
    px *= min(-(-pictures // ranks), at_once(shape.width, shape.height))
    return int(px * max(_WHOLE["cuda" if cuda else "cpu"] * wide, 5 * narrow))
