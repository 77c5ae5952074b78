"""Blocks whose weights come to the device in turn.

The device has room for the weights of two blocks: while one block computes, the next one's weights
are copied to the other place, on a stream of their own.

    copies    … | 5 → place 1 | 6 → place 0 |    …
    blocks    … |   block 4   |   block 5   | block 6 …

A copy waits until the block that had its place has computed, and a block waits for its copy. These
are waits of streams: the host queues everything and goes on. Places are not freed while they are in
use, so that no memory can be taken too early.

With an odd number of blocks the last and the first share a place, and that one copy of a step is
not hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from batchgen.engine.offload.weights import Pinned, carve, size_of, weights


class InTurn:
    """A block that has its weights when it is called."""

    def __init__(self, turns: Turns, index: int, block: nn.Module) -> None:
        self._turns, self._index, self._block = turns, index, block

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        """What the block computes."""
        self._turns.begin(self._index)
        result = self._block(*args, **inputs)
        self._turns.end(self._index)
        return result


class Turns:
    """The places, and who has them. Blocks are called one at a time, mostly in their order."""

    @torch.inference_mode(mode=False)
    def __init__(self, blocks: Sequence[nn.Module], device: torch.device) -> None:
        """Move the blocks' weights to the host."""
        host, cuda = Pinned(device), device.type == "cuda"
        room = max(sum(size_of(weight.value) for weight in weights(block)) for block in blocks)
        places = [torch.empty(room, dtype=torch.uint8, device=device) for _ in range(2)]
        # Of each block: its weights in its place, and at home.
        self._copies = [_settle(block, places[at % 2], host) for at, block in enumerate(blocks)]
        self.blocks = [InTurn(self, at, block) for at, block in enumerate(blocks)]
        # The block whose weights are in a place, or on their way there.
        self._there: list[int | None] = [None, None]
        self._stream: Any = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]
        self._copied, self._computed = (
            [torch.cuda.Event() if cuda else None for _ in range(2)]  # type: ignore[no-untyped-call]
            for _ in range(2)
        )

    def begin(self, index: int) -> None:
        """Have a block's weights for the work that is queued next, and fetch the next block's."""
        self._fetch(index)
        following = (index + 1) % len(self._copies)
        if following % 2 != index % 2:
            self._fetch(following)
        if copied := self._copied[index % 2]:
            copied.wait()

    def end(self, index: int) -> None:
        """Let another block have the place when the work that is queued so far is done."""
        if computed := self._computed[index % 2]:
            computed.record()

    def _fetch(self, index: int) -> None:
        place = index % 2
        if self._there[place] == index:
            return
        self._there[place] = index
        with torch.cuda.stream(self._stream):
            if computed := self._computed[place]:
                computed.wait()
            for there, home in self._copies[index]:
                there.copy_(home, non_blocking=True)
            if copied := self._copied[place]:
                copied.record()


def _settle(block: nn.Module, place: Tensor, host: Pinned) -> list[tuple[Tensor, Tensor]]:
    """Keep a block's weights at home, and let it compute with what is in its place."""
    copies = []
    for weight in weights(block):
        home = host.settle(weight)
        there, place = carve(place, home)
        weight.put(there)
        copies.append((there, home))
    return copies
