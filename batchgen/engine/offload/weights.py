"""Weights at a place of one's choice: the tensors of a module, and memory to lay them in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

# Where a tensor may begin: at a multiple of so many bytes, which suits every kernel and copy.
_ALIGNMENT = 256
# PyTorch rounds pinned memory up to powers of two, so that a matrix of 75 MB would take 134. Many
# tensors therefore share one piece of such a size.
_PIECE = 2**28


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor that a module computes with. It can be put elsewhere, and stays the same object."""

    # A parameter or a buffer, or the 8-bit tensor that the weight is a part of.
    owner: Tensor
    # Where the owner keeps the numbers: `data`, or the name of the part.
    name: str

    @property
    def value(self) -> Tensor:
        """The numbers, where they are now."""
        value: Tensor = getattr(self.owner, self.name)
        return value

    def put(self, value: Tensor) -> None:
        """Take the same numbers from another place."""
        setattr(self.owner, self.name, value)


def weights(module: nn.Module) -> Iterator[Weight]:
    """All weights of a module, those that it uses under several names once.

    An 8-bit tensor is a matrix and its scales; each is moved by itself, because the whole
    cannot be moved in inference mode.
    """
    for owner in (*module.parameters(), *module.buffers()):
        parts = owner.__tensor_flatten__()[0] if is_traceable_wrapper_subclass(owner) else ["data"]
        yield from (Weight(owner, name) for name in parts)


def size_of(tensor: Tensor) -> int:
    """Bytes from one tensor's beginning to where the next may begin."""
    reach = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    size = (reach + 1) * tensor.itemsize if tensor.numel() else 0
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def carve(memory: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """A tensor of the shape, strides and type of `like` at the beginning of memory; and the rest.

    :param memory: uint8 [n], aligned.
    """
    size = size_of(like)
    flat = memory[:size].view(like.dtype)
    return flat.as_strided(like.shape, like.stride(), flat.storage_offset()), memory[size:]


class Pinned:
    """Host memory from which a CUDA device copies by itself, while the host goes on."""

    def __init__(self, device: torch.device) -> None:
        """:param device: which will copy. Only memory for CUDA is pinned."""
        self._pin = device.type == "cuda"
        self._rest = torch.empty(0, dtype=torch.uint8)

    def settle(self, weight: Weight) -> Tensor:
        """Move a weight here. Return its numbers, which will stay here."""
        value = weight.value
        if (size := size_of(value)) > len(self._rest):
            piece = max(_PIECE, size) if self._pin else size
            self._rest = torch.empty(piece, dtype=torch.uint8, pin_memory=self._pin)
        home, self._rest = carve(self._rest, value)
        home.copy_(value)
        weight.put(home)
        return home
