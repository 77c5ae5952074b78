"""A quantized transformer as a safetensors file.

The file holds the whole transformer as the engine runs it: LoRAs fused, modulations separate, what
reads the same input stacked, the blocks' linears in 8 bits. Nothing of it is read from the
checkpoint any more.

Tensors are named by their place in the engine's model: `modulator.linears.0.weight`, or
`transformer.transformer_blocks.0.attn.to_qkv.bias`. A quantized weight is several tensors:
`….weight.qdata` [N, K], FP8 or int8; `….weight.scale` [N, 1], or [1, 1] per tensor, fp32; and for
int8 `….weight.zero_point`, all zero. The metadata has the key `batchgen`: everything that decided
the contents, as JSON.

Not covered: text encoders; more than one file; flipped bytes, which show only in pictures.
"""

from __future__ import annotations

import json
import reprlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from batchgen import durable
from batchgen.engine.precision.quantize import Format, is_quantized, quantize_blocks
from batchgen.engine.trusted_files import foreign
from batchgen.errors import ModelError, counted
from batchgen.model import read_header

_TYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int8: "I8",
    torch.int64: "I64",
}


@torch.inference_mode(mode=False)  # as in `quantize_linear`
def write_quantized(path: Path, model: nn.Module, facts: Mapping[str, Any]) -> None:
    """Publish everything the model holds as a file, unless there is one of that name already.

    One tensor is copied from the device at a time; the library's own writer would copy them all.

    :raises OSError: no space, no right to write, or a file system without hard links.
    """
    durable.create(path, _serialize(_plain_tensors(model), {"batchgen": json.dumps(facts)}))


@torch.inference_mode(mode=False)
def load_quantized(
    path: Path,
    model: nn.Module,
    blocks: Sequence[nn.Module],
    how: Format,
    facts: Mapping[str, Any],
    device: torch.device,
) -> int:
    """Fill the model from the file, and return how many linears are quantized now.

    :param model: on the meta device.
    :param blocks: the model's, not quantized. The file has their linears in 8 bits.
    :raises ModelError: there is no file, or it is of other facts or another model.
    """
    header = check_header(path, facts)
    count = quantize_blocks(blocks, how)
    _compare_layout(path, header, _plain_tensors(model))
    state = {}
    with safe_open(path, framework="pt", device=str(device)) as file:
        for name, tensor in model.state_dict().items():
            if is_quantized(tensor):
                names, attributes = tensor.__tensor_flatten__()
                parts = {part: file.get_tensor(f"{name}.{part}") for part in names}
                state[name] = tensor.__tensor_unflatten__(parts, attributes, None, None)
            else:
                state[name] = file.get_tensor(name)
    model.load_state_dict(state, assign=True)
    assert not any(buffer.is_meta for buffer in model.buffers()), "the file lacks a buffer"
    return count


def check_header(path: Path, facts: Mapping[str, Any]) -> dict[str, tuple[str, list[int]]]:
    """Tensor name → type and shape, if the file is whole, this user's, and made from these facts.

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
    differing = [
        f"{key} = {reprlib.repr(found.get(key))}, and {reprlib.repr(wanted)} is wanted"
        for key, wanted in facts.items()
        if found.get(key) != wanted
    ]
    if differing:
        raise _refused(path, f"was made with {'; '.join(differing)}")
    return {name: (entry["dtype"], entry["shape"]) for name, entry in header.items()}


def _serialize(
    tensors: Mapping[str, Tensor], metadata: dict[str, str]
) -> Iterator[bytes | memoryview]:
    """The file's bytes, a tensor at a time: https://github.com/huggingface/safetensors#format."""
    # Large elements first, so that each tensor begins at a multiple of its element.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        kind, shape = _TYPES[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for name in names:
        yield tensors[name].cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _compare_layout(path: Path, found: Mapping[str, object], tensors: Mapping[str, Tensor]) -> None:
    """:raises ModelError: names, types or shapes in the file are not those of the tensors."""
    wanted = {name: (_TYPES[tensor.dtype], list(tensor.shape)) for name, tensor in tensors.items()}
    wrong = [
        f"{name} is {found.get(name, 'not in it')}, "
        f"and {wanted.get(name, 'not in the model')} is wanted"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]
    if wrong:
        why = f"has {counted(len(wrong), 'tensor')} of another model: {'; '.join(wrong[:3])}"
        raise _refused(path, why)


def _plain_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The tensors of the model's file. A quantized weight gives one for each of its parts."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if is_quantized(tensor):
            parts, _ = tensor.__tensor_flatten__()
            tensors |= {f"{name}.{part}": getattr(tensor, part) for part in parts}
        else:
            tensors[name] = tensor
    return tensors


def _refused(path: Path, why: str) -> ModelError:
    return ModelError(
        f"{path} {why}. It is for quantized weights: remove it, and the next worker makes it anew, "
        "or --set run.quantized_weights=ANOTHER-FOLDER"
    )
