"""What attention, offloading, compilation and guidance need of a device, a job and a model.

No torch: planning asks before anything starts, as far as it knows the devices; the engine asks
again when it is built. Each rule is one function with one wording. Rules of `[precision]` stand in
`precision/rules.py`, those of `[parallel]` in `parallel/mesh.py`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from batchgen.errors import JobError
from batchgen.manifest import Picture
from batchgen.model import Guidance

# The first cards with PyTorch's flash and cuDNN attention: Ampere.
FAST_ATTENTION_CAPABILITY = (8, 0)


def check_attention(
    kernel: str, *, cuda: bool | None, capability: tuple[int, int] | None, fp32: bool, where: str
) -> None:
    """Check that a device has an attention kernel. `auto` and `math` run everywhere.

    :param kernel: `engine.attention` of the job.
    :param cuda: whether the device is a CUDA card; None if that is not known.
    :param capability: the card's compute capability, (9, 0) for an H100; None if it is not known.
    :param fp32: whether the model computes in 32 bits.
    :param where: the device's name, for the message.
    :raises JobError: the device is known to lack the kernel.
    """
    if kernel in ("auto", "math"):
        return
    asked = f'engine.attention = "{kernel}" on {where or "CUDA"}'
    if cuda is False and kernel != "flash":
        raise JobError(f"{asked}: it needs a CUDA device. --set engine.attention=auto")
    if cuda and capability and capability < FAST_ATTENTION_CAPABILITY:
        raise JobError(
            f"{asked}: fast kernels need compute capability 8.0 (Ampere) or newer. "
            "--set engine.attention=math"
        )
    if kernel == "fa3" and capability and capability[0] != 9:
        raise JobError(f"{asked}: it needs a Hopper card (H100, H200). --set engine.attention=auto")
    if cuda and fp32:
        raise JobError(
            f'{asked} with precision.linear = "fp32": fast kernels take 16 bits. '
            "--set engine.attention=math or precision.linear=bf16"
        )


def check_offload(offload: str, *, cuda: bool | None, where: str) -> None:
    """Check that there is a device which models can leave.

    :param offload: `engine.offload` of the job.
    :param cuda: whether the device is a CUDA card; None if that is not known.
    :param where: the device's name, for the message.
    :raises JobError: there is none: models are computed where they are stored.
    """
    if offload != "none" and cuda is False:
        raise JobError(
            f'engine.offload = "{offload}" on {where}: there is no device to leave. '
            "--set engine.offload=none"
        )


def check_offload_compiles(offload: str, mode: str) -> None:
    """Check that the blocks stay where they are if they are to be compiled.

    :param offload: `engine.offload` of the job.
    :param mode: `compile.mode` of the job; `auto` does not compile blocks that move.
    :raises JobError: compiled blocks were asked to move.
    """
    if offload == "layers" and mode not in ("auto", "none"):
        raise JobError(
            f'compile.mode = "{mode}" with engine.offload = "layers": layers that move cannot be '
            "compiled. --set compile.mode=none or engine.offload=model"
        )


def compile_mode(mode: str, offload: str, *, cuda: bool) -> str:
    """How blocks are compiled; "none": they are not.

    :param mode: `compile.mode` of the job.
    :param offload: `engine.offload` of the job.
    :raises JobError: compiled blocks were asked to move.
    """
    check_offload_compiles(offload, mode)
    if mode != "auto":
        return mode
    return "default" if cuda and offload != "layers" else "none"


def check_compile_cache(folder: str, mode: str, offload: str, *, cuda: bool, where: str) -> None:
    """Check that there will be compiled code to keep.

    :param folder: `run.compile_cache`, if the job's author wrote it.
    :param mode: `compile.mode` of the job.
    :param offload: `engine.offload` of the job.
    :param where: the device's name, for the message.
    :raises JobError: nothing is compiled.
    """
    if folder and compile_mode(mode, offload, cuda=cuda) == "none":
        on = f' on {where or "CUDA"} with engine.offload = "{offload}"' if mode == "auto" else ""
        raise JobError(
            f'run.compile_cache would have no effect: with compile.mode = "{mode}"{on} nothing is '
            "compiled. --set compile.mode=default, or leave run.compile_cache out"
        )


def check_true_cfg(true_cfg: float, *, contrasts: bool) -> None:
    """Check that a `true_cfg` over 1 has a meaning for the model.

    :param contrasts: whether the family's `guidance` is the scale of classifier-free guidance.
    :raises JobError: the family has no second scale, so that `true_cfg` would change nothing.
    """
    if contrasts and true_cfg > 1:
        raise JobError(
            f"true_cfg = {true_cfg:g}: this family's guidance is classifier-free already, and "
            "guidance is its only scale. Give the scale as guidance, and leave true_cfg out of "
            "the manifest and of [sampling]"
        )


def as_read(picture: Picture, guidance: Guidance | None) -> Picture:
    """The picture with "none" in the place of every guidance value that changed nothing.

    :param guidance: how the model is guided; None: every value acts, as on test cards.
    """
    if guidance is None:
        return picture
    values = (picture.guidance, picture.true_cfg, picture.negative_prompt != "")
    idle = guidance.idle(*(np.array([value]) for value in values))
    unread = {name: guidance.none[name] for name, mask in idle.items() if mask[0]}
    return replace(picture, **unread) if unread else picture
