"""A quantized transformer as a safetensors file.

A file holds the whole transformer as the engine runs it: LoRAs fused, modulations taken out, q, k and v stacked, the blocks' linears in 8
bits. So nothing of it is read from the checkpoint, not even what stays in the trained precision. Tensors are named by their place in the
engine's model, `transformer.transformer_blocks.0.attn.to_qkv.bias` or `modulator.linears.0.weight`. A quantized weight is two of them:
`….weight.qdata` [N, K], FP8 or int8, and `….weight.scale`, fp32, [N, 1], or [1, 1] per tensor. The header's `batchgen` is JSON: all that
decided what is in the file. Nothing is pickled.

What is not covered: text encoders; one file only, no parts; flipped bytes show in pictures, not here.
"""

from __future__ import annotations

import json
import os
import reprlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from batchgen import durable
from batchgen.engine.precision.quantize import Format, is_quantized, quantizable
from batchgen.engine.trusted_files import foreign
from batchgen.errors import ModelError
from batchgen.model import read_header

_TYPES = {  # as safetensors call them
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8",
    torch.int64: "I64",
}
_EIGHT_BITS = {"fp8": "F8_E4M3", "int8": "I8"}


@torch.inference_mode(mode=False)  # as in `quantize_linear`
def write_quantized(path: Path, model: nn.Module, facts: Mapping[str, Any]) -> None:
    """Everything the model holds, on the disk. Not a name that others look for: publishing is the caller's part.

    One tensor at a time: the library's own writer would first copy all of them from the device to the host.

    :raises OSError: there is no room, or no right.
    """
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if is_quantized(tensor):
            tensors |= {f"{name}.qdata": tensor.qdata, f"{name}.scale": tensor.scale}
        else:
            tensors[name] = tensor
    with os.fdopen(
        os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb", buffering=0
    ) as file:
        for part in _serialize(tensors, {"batchgen": json.dumps(facts)}):
            durable.append(file, part)
        durable.sync(file)


@torch.inference_mode(mode=False)
def load_quantized(
    path: Path,
    model: nn.Module,
    blocks: Sequence[nn.Module],
    how: Format,
    facts: Mapping[str, Any],
    device: torch.device,
) -> int:
    """Fill a model that may be on the meta device, and whose blocks are not quantized; returns how many linears are quantized now.

    :param blocks: the model's, whose linears the file has in 8 bits.
    :raises ModelError: there is no such file, or it was made otherwise or for another model. Nothing has been changed then.
    """
    header = check_header(path, facts)
    linears = {id(linear) for linear in quantizable(blocks).values()}
    dtypes = {
        f"{name}.weight": module.weight.dtype
        for name, module in model.named_modules()
        if id(module) in linears
    }
    _compare_layout(
        path,
        {name: (entry["dtype"], entry["shape"]) for name, entry in header.items()},
        _layout(model, dtypes, how),
    )
    state = {}
    with safe_open(path, framework="pt", device=str(device)) as file:
        for name in model.state_dict():
            if name in dtypes:
                state[name] = how.assemble(
                    file.get_tensor(f"{name}.qdata"), file.get_tensor(f"{name}.scale"), dtypes[name]
                )
            else:
                state[name] = file.get_tensor(name)
    model.load_state_dict(state, assign=True)
    assert not any(buffer.is_meta for buffer in model.buffers()), (
        "a buffer is in no state: files do not have it"
    )
    return len(dtypes)


def check_header(path: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Tensor name → dtype, shape, place, if the file is whole, this user's, and was made as these facts say.

    :raises ModelError: it is not.
    """
    header: dict[str, Any] = {}
    try:
        why = foreign(path.lstat())
        if not why:
            header = read_header(path)
    except OSError as error:
        why = f"cannot be read ({error.strerror})"
    except ModelError as broken:
        why = f"is damaged ({broken})"
    if why:
        raise _refused(path, why)
    try:
        found: dict[str, Any] = dict(json.loads(header.pop("__metadata__")["batchgen"]))
    except (KeyError, ValueError, TypeError):
        raise _refused(path, "is not a file of weights that batchgen quantized") from None
    different = [key for key, value in facts.items() if found.get(key) != value]
    differing = [
        f"{key} = {reprlib.repr(found.get(key))}, and {reprlib.repr(facts[key])} is wanted"
        for key in different
    ]
    if differing:
        raise _refused(path, f"was made with {'; '.join(differing)}")
    return header


def _serialize(
    tensors: Mapping[str, Tensor], metadata: dict[str, str]
) -> Iterator[bytes | memoryview]:
    """A file's bytes, a tensor at a time. Format: https://github.com/huggingface/safetensors#format."""
    names = sorted(
        tensors, key=lambda name: (-tensors[name].element_size(), name)
    )  # so that each begins at a multiple of its element
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in names:
        begin, end = end, end + tensors[name].nbytes
        header[name] = {
            "dtype": _TYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # as the library does
    yield struct.pack("<Q", len(text)) + text
    for name in names:
        yield tensors[name].cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _layout(
    model: nn.Module, quantized: Mapping[str, torch.dtype], how: Format
) -> dict[str, tuple[str, list[int]]]:
    """Types and shapes of the tensors in the model's file."""
    layout = {
        name: (_TYPES[tensor.dtype], list(tensor.shape))
        for name, tensor in model.state_dict().items()
    }
    for name in quantized:
        _, (outputs, inputs) = layout.pop(name)
        layout[f"{name}.qdata"] = _EIGHT_BITS[how.linear], [outputs, inputs]
        layout[f"{name}.scale"] = "F32", [outputs if how.granularity == "row" else 1, 1]
    return layout


def _compare_layout(path: Path, found: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    if wrong := sorted(
        name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name)
    ):
        shapes = (
            f"{name} is {found.get(name, 'not in it')}, and {wanted.get(name, 'not in the model')} is wanted"
            for name in wrong[:3]
        )
        raise _refused(path, f"has {len(wrong)} tensors of another model: {'; '.join(shapes)}")


def _refused(path: Path, why: str) -> ModelError:
    return ModelError(
        f"{path} {why}. It is for quantized weights: remove it, and the next worker makes it anew, "
        "or --set run.quantized_weights=ANOTHER-FOLDER"
    )
