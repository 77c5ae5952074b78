"""Some rows of a batch. Where that is every row, nothing is gathered or copied."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from batchgen.engine.device import upload


class Selection:
    """n of a batch's R rows, in rising order."""

    def __init__(self, numbers: Sequence[int], of: int, device: torch.device) -> None:
        """:param numbers: the rows' numbers.
        :param of: R.
        """
        self.numbers = numbers
        everything = len(numbers) == of
        self.index = None if everything else upload(numbers, device, torch.int64)

    def of(self, values: Tensor) -> Tensor:
        """The selected rows: [R, …] → [n, …]."""
        return values if self.index is None else values.index_select(0, self.index)

    def put(self, values: Tensor, new: Tensor) -> Tensor:
        """`values` [R, …] with the selected rows replaced by `new` [n, …]."""
        return new if self.index is None else values.index_copy(0, self.index, new)
