"""Attention to some of the keys: the values, and the log-sum-exp by which parts are merged.

PyTorch's public attention drops the log-sum-exp. The operators below it return it, and are called
here under the names of `kernels.py`. All give lse = log Σ exp(q·k / √E) over the keys at hand.

Legend: R rows, S queries, H heads, E head width.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from batchgen.engine.attention.kernels import flash_attention_3
from batchgen.errors import JobError

AttendPart = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""q, k, v → values [R, S, H, E] and lse [R, H, S], fp32."""


def choose_attend_part(kernel: str) -> AttendPart:
    """The kernel that `choose_attention` has named, for some of the keys.

    :raises JobError: the kernel gives no log-sum-exp.
    """
    known: dict[str, AttendPart] = {
        "sdpa": _sdpa,
        "flash": _flash,
        "cudnn": _cudnn,
        "fa3": _fa3,
        "math": _math,
    }
    if kernel not in known:
        raise JobError(
            f"engine.attention: {kernel} gives no log-sum-exp, which ring attention needs; "
            f"these do: {', '.join(known)}"
        )
    return known[kernel]


def _sdpa(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """On CUDA, `auto` is this in fp32 and on cards older than Ampere, which flash does not serve.

    Not run on a card yet: tests/engine/parallel/test_ulysses_ring.py waits for one.
    """
    if not q.is_cuda:
        return _flash(q, k, v)
    operator: Any = torch.ops.aten._scaled_dot_product_efficient_attention
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    out, lse = operator(*heads_first, None, compute_log_sumexp=True)[:2]
    # It is padded to a multiple of 32 queries.
    return out.transpose(1, 2), lse.narrow(-1, 0, q.shape[1])


def _flash(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    name = "_scaled_dot_product_flash_attention" + ("" if q.is_cuda else "_for_cpu")
    operator = getattr(torch.ops.aten, name)
    out, lse = operator(*(x.transpose(1, 2) for x in (q, k, v)))[:2]
    return out.transpose(1, 2), lse


def _cudnn(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    operator: Any = torch.ops.aten._scaled_dot_product_cudnn_attention
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    out, lse = operator(*heads_first, None, compute_log_sumexp=True)[:2]
    # Some versions keep a last dimension of 1.
    return out.transpose(1, 2), lse.reshape(q.shape[0], q.shape[2], q.shape[1])


def _fa3(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    function = flash_attention_3()
    # Older versions always return the log-sum-exp, newer ones on request.
    on_request = "return_attn_probs" in inspect.signature(function).parameters
    out, lse = function(q, k, v, **({"return_attn_probs": True} if on_request else {}))[:2]
    return out, lse


def _math(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The formula, in fp32."""
    scores = torch.einsum("rqhe,rkhe->rhqk", q.float(), k.float()) / math.sqrt(q.shape[-1])
    lse = scores.logsumexp(-1)
    weights = (scores - lse.unsqueeze(-1)).exp()
    return torch.einsum("rhqk,rkhe->rqhe", weights, v.float()).to(q.dtype), lse
