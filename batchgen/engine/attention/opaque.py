"""Attention that compiled blocks call without looking inside: it reads what differs by group.

Legend: R rows, S tokens, H heads, E head width.
"""

from __future__ import annotations

import itertools
import weakref
from abc import ABC, abstractmethod

import torch
from torch import Tensor


class OpaqueAttention(ABC):
    """An `Attend` for eager and for compiled blocks, which for the compiler is one operator."""

    def __init__(self) -> None:
        """Take the lowest free number: compiled code holds it, and the next process loads it."""
        self._handle = next(number for number in itertools.count() if number not in _ATTENTIONS)
        _ATTENTIONS[self._handle] = self

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k, v → the weighted values, all [R, S, H, E]."""
        out: Tensor = _attend(q, k, v, self._handle)
        return out

    @abstractmethod
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Do what the operator does: return a new, contiguous tensor."""


# An operator takes only tensors and numbers.
_ATTENTIONS: weakref.WeakValueDictionary[int, OpaqueAttention] = weakref.WeakValueDictionary()
# Of what an operator is handed, compiled code keeps the order of the dimensions in memory. Without
# a tag it would keep eager mode's very strides, and copy q and k to have them.
_TAGS = (torch.Tag.needs_fixed_stride_order,)


@torch.library.custom_op("batchgen::attend", mutates_args=(), tags=_TAGS)
def _attend(q: Tensor, k: Tensor, v: Tensor, handle: int) -> Tensor:
    return _ATTENTIONS[handle].attend(q, k, v)


@_attend.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, handle: int) -> Tensor:  # noqa: ARG001 - its signature
    return q.new_empty(q.shape)
