"""Attention kernels of one device, and which of them a job gets.

| `[engine] attention` | kernel |
|---|---|
| `auto` | cuDNN on Hopper and newer, flash on CUDA cards since Ampere, else PyTorch's own choice |
| `cudnn` `flash` | PyTorch's kernels of that name |
| `fa3` | FlashAttention 3, from its repository or the package `fa3-fwd`; Hopper only, untested |
| `math` | the formula, written out: slow, for comparisons |

In fp32 `auto` is PyTorch's own choice everywhere. In compiled blocks the compiler makes a kernel
of `math` again. Kernels round differently, so the choice is part of the engine's identity and
thereby of the run. Not covered: sparse or quantized attention, masks.
FlashAttention: https://arxiv.org/abs/2205.14135

Legend: R rows, S tokens, H heads, E head width.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from batchgen.engine.rules import FAST_ATTENTION_CAPABILITY, check_attention
from batchgen.errors import JobError

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Attention of every token to every token: q, k, v → the weighted values, all [R, S, H, E]."""


def choose_attention(name: str, device: torch.device, dtype: torch.dtype) -> tuple[Attend, str]:
    """The kernel that a job asks for, and its name for the records.

    :param name: `engine.attention` of the job.
    :raises JobError: the device or the installation lacks it. Another one never takes its place.
    """
    cuda, fp32 = device.type == "cuda", dtype == torch.float32
    capability = torch.cuda.get_device_capability(device) if cuda else None
    where = torch.cuda.get_device_name(device) if cuda else "the CPU"
    check_attention(name, cuda=cuda, capability=capability, fp32=fp32, where=where)
    if name == "auto":
        if fp32 or capability is None or capability < FAST_ATTENTION_CAPABILITY:
            name = "sdpa"
        else:
            name = "cudnn" if capability >= (9, 0) else "flash"
    if name == "fa3":
        flash_attention_3()
        return _attend_fa3, name
    return {"sdpa": _sdpa, "cudnn": _cudnn, "flash": _flash, "math": _math}[name], name


# Kernels are called by name. `torch.nn.attention.sdpa_kernel` chooses one for all threads of the
# process: the VAE, which decodes in another thread and whose heads are too wide for most kernels,
# would find none now and then.
def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _cudnn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    operator: Any = torch.ops.aten._scaled_dot_product_cudnn_attention
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    out: Tensor = operator(*heads_first, None, compute_log_sumexp=False)[0]
    return out.transpose(1, 2)


def _flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    name = "_scaled_dot_product_flash_attention" + ("" if q.is_cuda else "_for_cpu")
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    out: Tensor = getattr(torch.ops.aten, name)(*heads_first)[0]
    return out.transpose(1, 2)


def _math(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    out: Tensor = torch.ops.aten._scaled_dot_product_attention_math(*heads_first)[0]
    return out.transpose(1, 2)


@functools.cache
def flash_attention_3() -> Callable[..., Any]:
    """`flash_attn_func` of FlashAttention 3.

    :raises JobError: it is not installed.
    """
    for name in ("flash_attn_interface", "fa3_fwd_interface"):
        if importlib.util.find_spec(name) is not None:
            function: Callable[..., Any] = importlib.import_module(name).flash_attn_func
            return function
    raise JobError(
        'engine.attention = "fa3" is not installed: pip install fa3-fwd; '
        "or --set engine.attention=cudnn, which needs nothing"
    )


# One opaque operator in compiled blocks: versions differ in whether the compiler can look inside,
# and in whether they also return the log-sum-exp. Tagged as in `opaque.py`.
@torch.library.custom_op(
    "batchgen::flash_attention_3", mutates_args=(), tags=(torch.Tag.needs_fixed_stride_order,)
)
def _attend_fa3(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = flash_attention_3()(q, k, v)
    values: Tensor = out[0] if isinstance(out, tuple) else out
    return values


@_attend_fa3.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ARG001 - the operator's own signature
    return q.new_empty(q.shape)
