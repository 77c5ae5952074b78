"""Joint attention of text and image tokens: fused projections, and the kernel, chosen once.

`fuse_projections` stacks q, k and v into one matrix (one larger product, one input to quantize). `JointAttention` is put into every block
and does what diffusers' own processors do, for all families alike, down to one call `attend(q, k, v)`: a kernel on this device, or the
exchange over a replica's ranks around it.

| `[engine] attention` | where |
|---|---|
| `auto` | cuDNN on Hopper and newer, flash on older CUDA cards since Ampere; PyTorch's own choice elsewhere and in fp32 |
| `cudnn` `flash` | PyTorch's kernels of that name |
| `fa3` | FlashAttention 3, from its own repository or the package `fa3-fwd`; Hopper only; untested |
| `math` | the formula, written out: slow, for comparisons; in compiled blocks the compiler makes a kernel of it again |

The choice is part of the engine's identity, and so of the run: kernels round differently.
FlashAttention: https://arxiv.org/abs/2205.14135. Not covered: sparse or quantized attention, masks.

Legend: R rows, S tokens (text first), H heads, E head width, D = H·E.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from batchgen.errors import JobError

_rotate: Any = apply_rotary_emb  # its annotations are narrower than what it takes


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
        raise JobError('engine.attention = "cudnn" needs a CUDA device; --set engine.attention=auto')
    return _sdpa({"cudnn": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION, "math": SDPBackend.MATH}[name]), name


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
        raise JobError('engine.attention = "fa3" needs a Hopper card (H100, H200); --set engine.attention=auto')
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
    raise JobError('engine.attention = "fa3" is not installed: pip install fa3-fwd; or --set engine.attention=cudnn, which needs nothing')


# One opaque operator in compiled blocks: versions differ in whether the compiler can look inside.
@torch.library.custom_op("batchgen::flash_attention_3", mutates_args=())
def _attend_fa3(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = flash_attention_3()(q, k, v)
    values: Tensor = out[0] if isinstance(out, tuple) else out  # and in whether they also give the log-sum-exp
    return values


@_attend_fa3.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: ARG001 - the operator's own signature
    return q.new_empty(q.shape)


class JointAttention:
    """An attention processor for diffusers' MMDiT blocks, those with separate text weights (FLUX.1's double blocks, SD3) and without."""

    def __init__(self, attend: Attend) -> None:
        self.attend = attend

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """[R, S, D] → [R, S, D]; with text apart: (image, text)."""
        assert attention_mask is None, "no family here masks"
        q, k, v = _project(attn.to_qkv, attn.heads, hidden_states, attn.norm_q, attn.norm_k)
        if encoder_hidden_states is not None:
            text = _project(attn.to_added_qkv, attn.heads, encoder_hidden_states, attn.norm_added_q, attn.norm_added_k)
            q, k, v = (torch.cat(pair, dim=1) for pair in zip(text, (q, k, v), strict=True))
        if image_rotary_emb is not None:
            q, k = (_rotate(x, image_rotary_emb, sequence_dim=1) for x in (q, k))
        out = self.attend(q, k, v).flatten(2)
        if encoder_hidden_states is None:
            return out if getattr(attn, "pre_only", False) else attn.to_out[0](out)
        length = encoder_hidden_states.shape[1]
        text_out, image_out = out[:, :length], attn.to_out[0](out[:, length:].contiguous())
        return image_out, text_out if attn.context_pre_only else attn.to_add_out(text_out.contiguous())


def _project(qkv: Callable[[Tensor], Tensor], heads: int, x: Tensor, norm_q: Any, norm_k: Any) -> tuple[Tensor, Tensor, Tensor]:
    """[R, S, D] → q, k, v [R, S, H, E], q and k normalised where the model does."""
    q, k, v = (part.view(*part.shape[:2], heads, -1) for part in qkv(x).chunk(3, dim=-1))
    return q if norm_q is None else norm_q(q), k if norm_k is None else norm_k(k), v


def install_attention(blocks: Sequence[nn.Module], joint: Attend, image: Attend) -> None:
    """Put them into every attention of the blocks, which must have been fused.

    :param image: for the second attention that some blocks have, among image tokens alone (SD3.5 medium).
    """
    for name, attn in _attentions(blocks):
        attn.processor = JointAttention(image if name == "attn2" else joint)


def fuse_projections(blocks: Sequence[nn.Module]) -> None:
    """Stack the q, k and v linears of every attention into `to_qkv`, those of the text into `to_added_qkv`, and drop the old ones."""
    for _, attn in _attentions(blocks):
        _stack(attn, "to_qkv", ("to_q", "to_k", "to_v"))
        if getattr(attn, "add_q_proj", None) is not None:
            _stack(attn, "to_added_qkv", ("add_q_proj", "add_k_proj", "add_v_proj"))


def _attentions(blocks: Sequence[nn.Module]) -> list[tuple[str, Any]]:
    return [(name, child) for block in blocks for name, child in block.named_children() if name in ("attn", "attn2")]


@torch.no_grad()
def _stack(attn: nn.Module, name: str, parts: tuple[str, ...]) -> None:
    linears = [getattr(attn, part) for part in parts]
    first = linears[0]
    stacked = nn.Linear(first.in_features, sum(x.out_features for x in linears), bias=first.bias is not None, device="meta")
    stacked.weight = nn.Parameter(torch.cat([linear.weight for linear in linears]), requires_grad=False)
    if first.bias is not None:
        stacked.bias = nn.Parameter(torch.cat([linear.bias for linear in linears]), requires_grad=False)
    for part in parts:
        delattr(attn, part)
    setattr(attn, name, stacked)
