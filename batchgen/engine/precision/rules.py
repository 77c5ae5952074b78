"""Which precision a device can compute in, and which one keeps pictures independent.

These are rules alone, so that planning can refuse a job without importing torch. quantize.py
explains the precisions.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, get_args

from batchgen.engine.parallel.mesh import shares
from batchgen.errors import JobError

Quantized = Literal["fp8", "int8"]
QUANTIZED = get_args(Quantized)
Granularity = Literal["row", "tensor"]

# The first CUDA cards that multiply FP8 (Ada) and int8 (Turing).
FP8_CAPABILITY = (8, 9)
INT8_CAPABILITY = (7, 5)
# The fewest rows that PyTorch's int8 product takes on CUDA.
INT8_TOKENS = 17


def check_precision(
    linear: str, granularity: Granularity, capability: tuple[int, int] | None
) -> None:
    """Refuse a precision that the device cannot multiply in.

    :param linear: `precision.linear` of the job; `bf16`, `fp32` and `auto` pass on every device.
    :param capability: of the CUDA card, e.g. (9, 0) for an H100; None for a CPU.
    :raises JobError: the device cannot multiply so.
    """
    if linear not in QUANTIZED:
        return
    where = "a CPU"
    if capability is not None:
        where = "a CUDA card of compute capability {}.{}".format(*capability)
    asked = f'precision.linear = "{linear}" with granularity = "{granularity}" on {where}'
    if linear == "int8" and granularity != "row":
        raise JobError(f"{asked}: int8 is scaled per row only. --set precision.granularity=row")
    if linear == "fp8" and capability is None and granularity == "tensor":
        raise JobError(
            f"{asked}: PyTorch has only a reference kernel for this, about a thousand times slower "
            "than per row. --set precision.granularity=row"
        )
    if linear == "fp8" and capability is not None and capability < FP8_CAPABILITY:
        raise JobError(
            f"{asked}: FP8 products need 8.9 (Ada: L4, L40S, RTX 40) or newer (Hopper, Blackwell). "
            "--set precision.linear=int8, which halves the weights too, or bf16; "
            'precision.text = "fp8" works on every card'
        )
    if linear == "int8" and capability is not None and capability < INT8_CAPABILITY:
        raise JobError(
            f"{asked}: int8 products need 7.5 (Turing) or newer. --set precision.linear=bf16"
        )


def check_independence(
    linear: str, granularity: Granularity, *, cp: int, cfg: int = 1, group: int, force: bool
) -> None:
    """Refuse a precision in which a picture depends on its group or on the number of ranks.

    The scale of a whole tensor is its largest value: of all pictures of a group, and of one rank's
    share of the tokens and rows.

    :param cp: ranks that share the tokens of a row.
    :param cfg: halves of a replica that share the rows.
    :param group: pictures of a group.
    :param force: `precision.force`: the job wants it nevertheless.
    :raises JobError: pictures would depend on each other or on the ranks.
    """
    if linear != "fp8" or granularity != "tensor" or force:
        return
    shared = [f"groups of {group} pictures"] * (group > 1) + [f"cp = {cp} ranks"] * (cp > 1)
    shared += [f"cfg = {cfg} halves"] * (cfg > 1)
    if shared:
        raise JobError(
            f'precision.granularity = "tensor" with {" and ".join(shared)}: a picture would depend '
            "on its neighbours and on the number of ranks. --set precision.granularity=row, or "
            "engine.batch_size=1, parallel.cp=1 and parallel.cfg=1, or precision.force=true to "
            "have it so"
        )


def check_tokens(linear: str, lengths: Collection[int], cp: int, *, cuda: bool) -> None:
    """Refuse int8 on CUDA where a rank has too few tokens for the product.

    :param lengths: text and image tokens of one picture, of all sizes.
    :param cp: ranks that share the tokens.
    :raises JobError: a rank has too few.
    """
    fewest = min(shares(length, cp)[-1] for length in lengths)
    if linear == "int8" and cuda and fewest < INT8_TOKENS:
        raise JobError(
            f'precision.linear = "int8" with {fewest} text or image tokens a rank: int8 products '
            f"on CUDA need {INT8_TOKENS} or more. Ask for larger pictures or a larger "
            "model.max_sequence_length, lower parallel.cp, or --set precision.linear=fp8"
        )
