"""What a scorer takes of its device's memory: an estimate, as `memory.py` has those of the rest.

Weights are exact, in fp32. What it computes is `NUMBERS` for each px that it sees of a picture: the
largest peak over all tensors that was measured, on a CPU, at each model's usual size.

    ViT and BEiT base, 16 px a patch    36
    DINOv2 base, 14 px                  47
    SigLIP so400m, 14 px                65
    ConvNeXt base                       80
    CLIP large, 14 px                   84
    CLIP huge, 14 px (PickScore)       105
    Swin base                          122
"""

from __future__ import annotations

from batchgen.engine.sizes import SCORED_AT_ONCE
from batchgen.model import ScoreModel

NUMBERS = 122
_BYTES = 4  # of fp32


def score_memory(scorer: ScoreModel | None, group: int) -> tuple[int, int]:
    """Bytes of the weights, and of what is computed for a group; zeros without a scorer.

    :param group: the most pictures of a group.
    """
    if scorer is None:
        return 0, 0
    computed = min(group, SCORED_AT_ONCE) * NUMBERS * scorer.side_px**2
    return scorer.parameters * _BYTES, computed * _BYTES
