"""Which precision a device can compute in, and which keeps pictures independent: rules alone, so that planning can refuse without torch.

`quantize.py` says what the words mean and why.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, get_args

from batchgen.engine.parallel.mesh import shares
from batchgen.errors import JobError

Quantized = Literal["fp8", "int8"]
QUANTIZED = get_args(Quantized)
Granularity = Literal["row", "tensor"]

FP8_CAPABILITY = (8, 9)  # the first CUDA cards that multiply FP8: Ada
INT8_CAPABILITY = (7, 5)  # and int8: Turing
INT8_TOKENS = 17  # the fewest rows PyTorch's int8 product takes on CUDA


def check_precision(
    linear: str, granularity: Granularity, capability: tuple[int, int] | None
) -> None:
    """Whether a device computes linears so; `bf16`, `fp32` and `auto` pass everywhere.

    :param linear: `precision.linear` of the job.
    :param capability: the CUDA card's compute capability, e.g. (9, 0) for an H100; None for a CPU.
    :raises JobError: it does not.
    """
    if linear not in QUANTIZED:
        return
    where = (
        "a CPU"
        if capability is None
        else f"a CUDA card of compute capability {capability[0]}.{capability[1]}"
    )
    asked = f'precision.linear = "{linear}" with granularity = "{granularity}" on {where}'
    if linear == "int8" and granularity != "row":
        raise JobError(f"{asked}: int8 is scaled per row only. --set precision.granularity=row")
    if linear == "fp8" and capability is None and granularity == "tensor":
        raise JobError(
            f"{asked}: PyTorch has only a reference kernel for it there, about a thousand times slower than per row. "
            "--set precision.granularity=row"
        )
    if linear == "fp8" and capability is not None and capability < FP8_CAPABILITY:
        raise JobError(
            f"{asked}: FP8 products need 8.9 (Ada: L4, L40S, RTX 40) or newer (Hopper, Blackwell). "
            '--set precision.linear=int8, which halves the weights too, or bf16; precision.text = "fp8" works on every card'
        )
    if linear == "int8" and capability is not None and capability < INT8_CAPABILITY:
        raise JobError(
            f"{asked}: int8 products need 7.5 (Turing) or newer. --set precision.linear=bf16"
        )


def check_independence(
    linear: str, granularity: Granularity, *, cp: int, group: int, force: bool
) -> None:
    """Whether a picture is the same whoever is batched with it and however many ranks paint it.

    One scale a tensor is the largest value of everything that happens to be in it: of all pictures of the group, or of a rank's share.

    :param cp: ranks of a replica.
    :param group: pictures of a group.
    :param force: `precision.force`: that is known, and wanted.
    :raises JobError: it is not.
    """
    if linear != "fp8" or granularity != "tensor" or force:
        return
    shared = [
        name
        for name, count in ((f"groups of {group} pictures", group), (f"cp = {cp} ranks", cp))
        if count > 1
    ]
    if shared:
        raise JobError(
            f'precision.granularity = "tensor" with {" and ".join(shared)}: a picture would depend on its neighbours and on the number of '
            "ranks. --set precision.granularity=row, or engine.batch_size=1 and parallel.cp=1, or precision.force=true to have it so"
        )


def check_tokens(linear: str, lengths: Collection[int], cp: int, *, cuda: bool) -> None:
    """Whether the int8 product of CUDA takes inputs so small.

    :param lengths: text and image tokens of one picture, of all sizes.
    :param cp: ranks that share them.
    :raises JobError: it does not.
    """
    fewest = min(shares(length, cp)[-1] for length in lengths)
    if linear == "int8" and cuda and fewest < INT8_TOKENS:
        raise JobError(
            f'precision.linear = "int8" with {fewest} text or image tokens a rank: int8 products on CUDA need {INT8_TOKENS} or more. '
            "Ask for larger pictures or a larger model.max_sequence_length, lower parallel.cp, or --set precision.linear=fp8"
        )
