"""Numbers of a LoRA file, read without torch: alphas, and whether all numbers are finite.

NumPy has no type for bf16 and float8. A float is NaN or infinite if its exponent has all bits set
(in float8 E4M3, which has no infinity: all bits but the sign), which shows without converting it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from batchgen.errors import ModelError

# Type of floats → unsigned integers of their size, and the bits that are all set without a value.
_FLOATS = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}
MATRIX_TYPES = tuple(_FLOATS)
"""Types of numbers that a matrix may have."""

# Types that an alpha may have, as `struct` reads them. BF16 is the upper half of a float.
_ALPHAS = {"F64": "<d", "F32": "<f", "F16": "<e", "BF16": "<f", "I64": "<q", "I32": "<i"}


def read_alphas(path: Path, names: Iterable[str]) -> dict[str, float]:
    """Name → value of tensors that hold one number each.

    :raises ModelError: a type of numbers that is not read.
    """
    values = {}
    for name, kind, content in _tensors(path, names):
        if kind not in _ALPHAS:
            accepted = ", ".join(_ALPHAS)
            raise ModelError(f"{path}: {name} has type {kind}; accepted are {accepted}")
        padded = b"\0\0" + content if kind == "BF16" else content
        values[name] = float(struct.unpack(_ALPHAS[kind], padded)[0])
    return values


def check_finite(path: Path, names: Iterable[str]) -> None:
    """Check that tensors of `MATRIX_TYPES` hold finite numbers only. Reads all of them.

    :raises ModelError: one does not; every picture would be NaN.
    """
    for name, kind, content in _tensors(path, names):
        integers, bits = _FLOATS[kind]
        if np.any(np.frombuffer(content, integers) & bits == bits):
            raise ModelError(
                f"{path}: {name} holds numbers that are NaN or infinite, and every picture would "
                "be; the training failed, or the download: fetch the file again"
            )


def _tensors(path: Path, names: Iterable[str]) -> Iterator[tuple[str, str, bytes]]:
    """Name, type and bytes of tensors in a sound safetensors file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        for name in names:
            start, end = header[name]["data_offsets"]
            file.seek(8 + length + start)
            yield name, header[name]["dtype"], file.read(end - start)
