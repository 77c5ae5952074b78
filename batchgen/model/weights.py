"""Weight files on disk: whether one is whole, and a digest that need not read all of it.

A FLUX.1 checkpoint is 34 GB; hashing it whole at every `plan` would take a minute from a fast disk and much longer
from a shared one. A large file is therefore sampled: its size, its safetensors header (names, types, shapes, offsets of
every tensor) and 64 evenly spaced blocks of 64 KiB. Another training run, precision, quantization or LoRA merge changes
nearly every byte and cannot pass; a hand-made edit of a few tensors between two blocks can. Not a seal against forgery.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from batchgen.errors import ModelError

WHOLE_BYTES = 4 * 2**20  # files up to this size are hashed whole
BLOCKS = 64
BLOCK_BYTES = 64 * 2**10
_MAX_HEADER_BYTES = 100 * 2**20  # the safetensors format's own limit


def digest(path: Path) -> str:
    """What identifies a file: `sha256:…` of the whole up to 4 MiB, `sampled:…` (see the module) above."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            return "sha256:" + hashlib.sha256(file.read()).hexdigest()
        sample = hashlib.sha256(struct.pack("<Q", size))
        if path.suffix == ".safetensors":
            sample.update(file.read(8 + header_bytes(path)))
        for block in range(BLOCKS):
            file.seek((size - BLOCK_BYTES) * block // (BLOCKS - 1))
            sample.update(file.read(BLOCK_BYTES))
    return "sampled:" + sample.hexdigest()


def header_bytes(path: Path) -> int:
    """Length of a safetensors file's header.

    :raises ModelError: the file does not begin like safetensors: pickled weights, an HTML page, a Git LFS pointer.
    """
    with path.open("rb") as file:
        first = file.read(8)
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
    if not 2 <= length <= min(_MAX_HEADER_BYTES, path.stat().st_size - 8):
        raise ModelError(
            f"{path}: not a safetensors file. Only safetensors weights are loaded: pickled ones can run code."
        )
    return int(length)


def read_header(path: Path) -> dict[str, Any]:
    """A safetensors file's header: tensor name → dtype, shape, data_offsets; `__metadata__` → strings. Checks that the file is whole.

    :raises ModelError: not safetensors, or cut short: downloads that broke off show here, not at 3 a.m.
    Format: https://github.com/huggingface/safetensors#format
    """
    length = header_bytes(path)
    with path.open("rb") as file:
        file.seek(8)
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            end = max(
                (
                    entry["data_offsets"][1]
                    for name, entry in header.items()
                    if name != "__metadata__"
                ),
                default=0,
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ModelError(
                f"{path}: its safetensors header cannot be read; fetch the file again."
            ) from None
    expected, size = 8 + length + end, path.stat().st_size
    if size != expected:
        raise ModelError(
            f"{path}: has {size} bytes, its header promises {expected}; the copy or download is broken, fetch the file again."
        )
    return header
