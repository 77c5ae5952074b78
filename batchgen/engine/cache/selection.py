"""Some rows of a batch. Where that is every row, nothing is gathered or copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Selection:
    """n of a batch's R rows, in rising order."""

    def __init__(self, numbers: Sequence[int], of: int, device: torch.device) -> None:
        """:param numbers: the rows' numbers.
        :param of: R.
        """
        self.numbers = numbers
        everything = len(numbers) == of
        self.index = None if everything else upload(numbers, torch.int64, device)

    def of(self, values: Tensor) -> Tensor:
        """The selected rows: [R, …] → [n, …]."""
        return values if self.index is None else values.index_select(0, self.index)

    def put(self, values: Tensor, new: Tensor) -> Tensor:
        """`values` [R, …] with the selected rows replaced by `new` [n, …]."""
        return new if self.index is None else values.index_copy(0, self.index, new)


def upload(numbers: Sequence[Any], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers, nested or not, as a tensor on the device, which is not waited for."""
    host = torch.tensor(numbers, dtype=dtype)
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host
