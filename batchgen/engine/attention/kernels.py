"""batchgen.engine.attention.kernels."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from batchgen.errors import JobError


class Attend(Protocol):
    """Attention of [R, S, H, E], every token to every token."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The weighted values, [R, S, H, E]."""


def choose_attention(name: str, device: torch.device, dtype: torch.dtype) -> tuple[Attend, str]:
    """The kernel, and its name for the records.

    :raises JobError: this device or this installation does not have it. Never another one in its place.
    """
    if name == "auto":
        capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
        if capability < (8, 0) or dtype == torch.float32:
            return _sdpa(None), "sdpa"
        name = "cudnn" if capability >= (9, 0) else "flash"
    if name == "fa3":
        return _fa3(device), name
    if name == "cudnn" and device.type != "cuda":
        raise JobError(
            'engine.attention = "cudnn" needs a CUDA device; --set engine.attention=auto'
        )
    return _sdpa(
        {
            "cudnn": SDPBackend.CUDNN_ATTENTION,
            "flash": SDPBackend.FLASH_ATTENTION,
            "math": SDPBackend.MATH,
        }[name]
    ), name


def _sdpa(backend: SDPBackend | None) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        if backend is None:
            return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        with sdpa_kernel(backend):
            return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)

    return attend


def _fa3(device: torch.device) -> Attend:
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] != 9:
        raise JobError(
            'engine.attention = "fa3" needs a Hopper card (H100, H200); --set engine.attention=auto'
        )
    flash_attention_3()
    attend: Attend = _attend_fa3
    return attend


@functools.cache
def flash_attention_3() -> Callable[..., Any]:
    """Its `flash_attn_func`.

    :raises JobError: it is not installed.
    """
    for name in ("flash_attn_interface", "fa3_fwd_interface"):
        if importlib.util.find_spec(name) is not None:
            function: Callable[..., Any] = importlib.import_module(name).flash_attn_func
            return function
    raise JobError(
        'engine.attention = "fa3" is not installed: pip install fa3-fwd; or --set engine.attention=cudnn, which needs nothing'
    )


# One opaque operator in compiled blocks: versions differ in whether the compiler can look inside.
@torch.library.custom_op("batchgen::flash_attention_3", mutates_args=())
def _attend_fa3(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = flash_attention_3()(q, k, v)
    values: Tensor = (
        out[0] if isinstance(out, tuple) else out
    )  # and in whether they also give the log-sum-exp
    return values


@_attend_fa3.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ARG001 - the operator's own signature
    return q.new_empty(q.shape)
