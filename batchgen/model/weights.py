"""Weight files on disk: headers of safetensors files, and a digest that samples large files.

A FLUX.1 checkpoint is 34 GB. Hashing it at every `plan` would take a minute from a fast disk and
much longer from a shared one. So a large file is sampled: its size, its safetensors header (name,
type, shape and offset of every tensor) and 64 evenly spaced blocks of 64 KiB. Other training,
precision, quantization or a merged LoRA changes nearly every byte, and so the digest. An edit of a
few tensors between two blocks may go unseen: the digest is no seal against forgery.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from batchgen.errors import ModelError, counted

# Files up to this size are hashed whole.
WHOLE_BYTES = 4 * 2**20
BLOCKS = 64
BLOCK_BYTES = 64 * 2**10
# The safetensors library refuses longer headers.
_MAX_HEADER_BYTES = 100_000_000
_GGUF = (
    "a GGUF file, whose quantized weights batchgen does not read",
    ("give the model in diffusers layout, in bf16; precision.linear quantizes it"),
)
_PICKLE = "a pickled PyTorch file, which can run code", "convert it with save_pretrained"
# First bytes of files that are taken for weights: what they are, and what to do.
_STRANGERS = {
    b"version https://git-lfs": ("a Git LFS pointer", "fetch what it points to: git lfs pull"),
    b"<": ("a web page", "fetch the file again, after `hf auth login` if the hub asks for a login"),
    b"GGUF": _GGUF,
    b"PK\x03\x04": _PICKLE,
    b"\x80": _PICKLE,
}


def digest(path: Path) -> str:
    """What identifies a file: `sha256:…` of all bytes up to 4 MiB, `sampled:…` of larger files."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_BYTES:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        sample = hashlib.sha256(size.to_bytes(8, "little"))
        if path.suffix == ".safetensors":
            length = file.read(8)
            header = file.read(min(int.from_bytes(length, "little"), _MAX_HEADER_BYTES))
            sample.update(length + header)
        for block in range(BLOCKS):
            file.seek((size - BLOCK_BYTES) * block // (BLOCKS - 1))
            sample.update(file.read(BLOCK_BYTES))
    return f"sampled:{sample.hexdigest()}"


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: tensor name → `dtype` and `shape`. The file is whole.

    `__metadata__` → the strings that the writer of the file put there, if any.

    :raises ModelError: the file is not safetensors, or its size is not what its header promises.
        The message says what the file seems to be and what to do.
    :raises OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(64)
    try:
        with safe_open(path, framework="np") as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
            header: dict[str, Any] = {
                name: {"dtype": tensor.get_dtype(), "shape": tensor.get_shape()}
                for name, tensor in slices.items()
            }
            metadata = weights.metadata()
    except SafetensorError as error:
        raise ModelError(f"{path}: {_diagnose(path, start, error)}.") from None
    return header if metadata is None else header | {"__metadata__": metadata}


def kind_of_file(path: Path) -> str:
    """What a file is that was given for a model folder, and what to do."""
    if not path.is_file():
        return "a link to nothing" if path.is_symlink() else "a pipe or a device, not a folder"
    with path.open("rb") as file:
        start = file.read(64)
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return (
            "a single-file checkpoint, which batchgen does not read; convert it with diffusers: "
            "PIPELINE.from_single_file('FILE').save_pretrained('NEW-FOLDER')"
        )
    for prefix, (what, remedy) in _STRANGERS.items():
        if start.startswith(prefix):
            return f"{what}; {remedy}"
    return "a file, not a folder"


def _diagnose(path: Path, start: bytes, error: SafetensorError) -> str:
    """Why a file cannot be loaded, and what to do."""
    if not start:
        return "not a safetensors file but an empty one; fetch it again"
    begins_well = start[8:9] == b"{"  # behind the eight bytes of the header's length
    for prefix, (what, remedy) in _STRANGERS.items():
        if start.lstrip().startswith(prefix) and not begins_well:
            return f"not a safetensors file but {what}; {remedy}"
    size = counted(path.stat().st_size, "byte")
    what = f"has {size} and is not a whole safetensors file ({error})"
    return f"{what}. The copy or download is broken: fetch the file again"
