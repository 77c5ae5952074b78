"""Quantized blocks in a safetensors file: half the bytes to read, and no bf16 copy on the way.

Tensors are named by the block's place in the list and their own name: `17.attn.to_qkv.bias`. A quantized weight is two of them,
`17.attn.to_qkv.weight.qdata` [N, K], FP8 or int8, and `17.attn.to_qkv.weight.scale`, fp32, [N, 1], or [1, 1] per tensor. The header's
`batchgen` is JSON: how they were quantized, from which type and from which weights. Nothing is pickled.

What is not covered: one file only, no shards; flipped bytes show in pictures, not here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchao.quantization import Float8Tensor, Int8Tensor

from batchgen.engine.quantize import Format, quantizable
from batchgen.errors import ModelError
from batchgen.weights import read_header

VERSION = 1


@torch.inference_mode(mode=False)  # as in `quantize_linear`
def save_quantized(path: Path, blocks: Sequence[nn.Module], how: Format, source: str) -> None:
    """Write everything the blocks hold. The file has its name once it is complete.

    :param how: what they were quantized with.
    :param source: what identifies the weights they were made from, LoRAs included.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in _tensors(blocks).items():
        if isinstance(tensor, Float8Tensor | Int8Tensor):
            tensors |= {f"{name}.qdata": tensor.qdata.contiguous(), f"{name}.scale": tensor.scale.contiguous()}
        else:
            tensors[name] = tensor.contiguous()
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(tensors, partial, metadata={"batchgen": json.dumps(_description(blocks, how, source))})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@torch.inference_mode(mode=False)  # as in `quantize_linear`
def load_quantized(path: Path, blocks: Sequence[nn.Module], how: Format, source: str, device: torch.device) -> int:
    """Fill blocks that are not quantized, and may be on the meta device, from a file; return how many linears are quantized now.

    :param source: as it was when the file was written.
    :raises ModelError: there is no such file, or it was made otherwise or for other blocks. Nothing has been changed then.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file of quantized weights")
    header = read_header(path)
    _compare_description(path, header.pop("__metadata__", {}), _description(blocks, how, source))
    linears = quantizable(blocks)
    _compare_shapes(path, {name: entry["shape"] for name, entry in header.items()}, _layout(blocks, linears, how))
    dtypes = {f"{name}.weight": module.weight.dtype for name, module in linears.items()}
    file = load_file(path, device=str(device))
    for number, block in enumerate(blocks):
        state = {}
        for name in block.state_dict():
            full = f"{number}.{name}"
            state[name] = how.assemble(file[f"{full}.qdata"], file[f"{full}.scale"], dtypes[full]) if full in dtypes else file[full]
        block.load_state_dict(state, assign=True)
        block.requires_grad_(requires_grad=False)
    return len(linears)


def _tensors(blocks: Sequence[nn.Module]) -> dict[str, Tensor]:
    return {f"{number}.{name}": tensor for number, block in enumerate(blocks) for name, tensor in block.state_dict().items()}


def _layout(blocks: Sequence[nn.Module], linears: dict[str, nn.Linear], how: Format) -> dict[str, list[int]]:
    """Shapes of the tensors in the blocks' file."""
    shapes = {name: list(tensor.shape) for name, tensor in _tensors(blocks).items()}
    for name, module in linears.items():
        shapes[f"{name}.weight.qdata"] = shapes.pop(f"{name}.weight")
        shapes[f"{name}.weight.scale"] = [module.out_features if how.granularity == "row" else 1, 1]
    return shapes


def _description(blocks: Sequence[nn.Module], how: Format, source: str) -> dict[str, Any]:
    dtypes = sorted({str(module.weight.dtype) for module in quantizable(blocks).values()})
    return {
        "version": VERSION,
        "linear": how.linear,
        "granularity": how.granularity,
        "weight_only": how.weight_only,
        "reduced": how.reduced,
        "from": dtypes,
        "source": source,
    }


def _compare_description(path: Path, metadata: dict[str, str], wanted: dict[str, Any]) -> None:
    try:
        found: dict[str, Any] = dict(json.loads(metadata["batchgen"]))
    except (KeyError, ValueError, TypeError):
        raise ModelError(f"{path}: not a file of weights that batchgen quantized") from None
    if differing := [f"{key} = {found.get(key)!r}, and {value!r} is wanted" for key, value in wanted.items() if found.get(key) != value]:
        raise ModelError(f"{path}: was made with {'; '.join(differing)}. Delete it, or name another file")


def _compare_shapes(path: Path, found: dict[str, list[int]], wanted: dict[str, list[int]]) -> None:
    if wrong := sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)):
        shapes = (f"{name} is {found.get(name, 'not in it')}, and {wanted.get(name, 'not in the model')} is wanted" for name in wrong[:3])
        raise ModelError(f"{path}: {len(wrong)} tensors are for other blocks: {'; '.join(shapes)}")
