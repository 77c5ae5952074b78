"""What 8-bit blocks take beside plain ones on CUDA where they are not compiled: an estimate.

torchao writes out its steps then, for the M rows of tokens of a product with a weight [N, K]. In
numbers of 2 bytes:

    FP8     what the product reads, three times in fp32 and once quantized: 6.5·K of each row. The
            blocks' peak is elsewhere and has a part already: 5.3·K. That is 5·D of FLUX.1, 2.7·D of
            Z-Image and 4·D of the others, where D is the transformer's width
    int8    what the product makes, in int32 and scaled in fp32: 4·N of each row, of which the
            blocks' peak has a part: 2.5·N. It makes 7·D, 9·D of FLUX.2, 6·D of ERNIE-Image, 5.3·D
            of Z-Image, and 4·D. Before, in int32 alone, the weight is there a second time: torchao
            copies it into the order of rows that its product takes, K·N bytes. That is more where
            M < K/4: FLUX.2 dev's 340 MB count below 1536 tokens

On the emulated card these 5.3 were 5.3 (FLUX.1), 5.2 (FLUX.2) and 4.3 to 5.5; and these 2.5 were
2.3 to 2.7, 2.0 to 2.3 and 2.4 to 2.8.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

# Linears that read the same tokens are one: as attention/fuse.py, which imports torch.
_STACKED = re.compile(r"(attn\.)?(to_[qkv]|proj_mlp)\b|\b(w[13]|gate_proj|up_proj)\b")


def eager_memory(linear: str, weights: Iterable[tuple[str, tuple[int, ...]]], rows: int) -> float:
    """Numbers of 2 bytes that blocks take more in this precision.

    :param linear: `precision.linear` of the job.
    :param weights: name and shape of every matrix that is quantized.
    :param rows: tokens of all rows of a group on a rank.
    """
    read, made = Counter[str](), Counter[str]()
    for name, (out, into) in weights:
        product = _STACKED.sub("attn.to_qkv", name)
        read[product], made[product] = into, made[product] + out
    if linear == "fp8":
        return 5.3 * max(read.values()) * rows
    if linear == "int8":
        # Without the scaled copy, the 2.5 numbers of 2 bytes are half a one.
        return max(
            made[product] * max(2.5 * rows, 0.5 * rows + read[product] / 2) for product in made
        )
    return 0
