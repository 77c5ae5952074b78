"""batchgen.engine.cache.selection."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Selection:
    """Some of a call's rows, in rising order; where that is all of them nothing is gathered or copied."""

    def __init__(self, numbers: Sequence[int], of: int, device: torch.device) -> None:
        """:param of: rows of the call."""
        self.numbers = numbers
        self.index = (
            None if len(numbers) == of else torch.tensor(numbers, dtype=torch.int64, device=device)
        )

    def of(self, values: Tensor) -> Tensor:
        """[R, …] → [n, …]."""
        return values if self.index is None else values.index_select(0, self.index)

    def put(self, values: Tensor, new: Tensor) -> Tensor:
        """[R, …] with these rows replaced by [n, …]."""
        return new if self.index is None else values.index_copy(0, self.index, new)
