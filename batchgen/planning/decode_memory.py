"""What decoding takes of its device's memory: an estimate, as `memory.py` has those of the rest.

The peak is where the decoder's last block begins, at full size. Let c₀ be the channels that this
block makes and c₁ = 2·c₀ those of the block before it. In numbers for each px:

    whole       3·c₁: what the block is given, and that normalized and activated. A block that does
                not change the number of channels takes 5·c₀
    in n bands  c₁ + 2.5·c₁/n: bands that are not yet read, c₁ wide, and what was made of the
                others, two ways of c₀; one band with its neighbours' rows, that normalized, and
                that activated

A VAE of one frame (vae/one_frame.py) is given c₀ there, which is kept. Its norms compute in fp32.
That makes 3·c₁ too, and in bands c₁ + 1.5·c₁/n.

Convolutions want more. On a CPU a whole decode takes 4·c₁ (3.9 measured, of FLUX.1's VAE 4.1 kB a
px in fp32; half of it in bf16, where 2.4 were measured). On CUDA what they want is not known:
0.4·c₁ are planned, and in bands, where a convolution sees one, 0.5·c₁/n. The emulated card
(tests/cuda/) sums tensors alone. Of what is planned, whole pictures took 0.88 there, one band of
each of several ranks 0.83 to 0.88, and eight bands 0.95 to 1.01.
"""

from __future__ import annotations

from batchgen.engine.sizes import at_once, bands
from batchgen.model.components.config import AnyVae
from batchgen.model.components.video_autoencoder import QwenVae
from batchgen.planning.plan import Shape

# Numbers of a picture decoded whole, for each px and each channel of the last block but one.
_WHOLE = {"cuda": 3.4, "cpu": 4.0}
# The same of one band, beside the whole picture; of a VAE of videos.
_BAND, _BAND_OF_FRAME = 3.0, 2.0


def decode_memory(vae: AnyVae, shape: Shape, pictures: int, *, ranks: int, cuda: bool) -> int:
    """Numbers that decoding a group takes beside the weights, on each of the ranks.

    :param pictures: of the group.
    """
    narrow, wide = vae.decoder_channels[:2]
    px = shape.width * shape.height
    if count := bands(shape.width, shape.height, ranks):
        band = _BAND_OF_FRAME if isinstance(vae, QwenVae) else _BAND
        return int(px / ranks * (1 + band / count) * max(wide, 2 * narrow))
    px *= min(-(-pictures // ranks), at_once(shape.width, shape.height))
    return int(px * max(_WHOLE["cuda" if cuda else "cpu"] * wide, 5 * narrow))
