"""A process group of threads on the emulated card: real numbers, under NCCL's rules.

Takes the place of the three functions of torch.distributed that `Ranks` uses. What NCCL would
answer with a hang, with garbage, or with an error is told at once:

- a buffer that is not on the card, or not contiguous;
- lengths that are not those of the buffer, or not what the peer sends;
- peers that send and expect different types, or call something else.

Exchanges run on a stream of their own, which waits for the rank's stream; that one waits for
them: at once, or for a rotation when it is told to. The host never waits.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from tests.cuda import streams
from tests.cuda.tensor import CudaTensor

# A peer that does not come has failed.
_PATIENCE_S = 60.0


class Exchanges(contextlib.ExitStack):
    """The exchanges of a replica's ranks, each of which is a thread."""

    def __init__(self, degree: int) -> None:
        super().__init__()
        # The first fault that a rank met.
        self.error = ""
        # Calls of all ranks, by name.
        self.calls: Counter[str] = Counter()
        self._degree, self._barrier = degree, threading.Barrier(degree)
        self._posted: list[Any] = [None] * degree
        self._sent: dict[tuple[int, int], queue.Queue[Tensor]] = {
            (one, other): queue.Queue() for one in range(degree) for other in range(degree)
        }
        self._thread = threading.local()

    def __enter__(self) -> Exchanges:
        """Stand in for torch.distributed."""
        for name, stand_in in {
            "all_to_all_single": self._all_to_all,
            "broadcast": self._broadcast,
            "batch_isend_irecv": self._rotate,
            "P2POp": _operation,
        }.items():
            self.enter_context(mock.patch.object(dist, name, stand_in))
        return self

    @contextlib.contextmanager
    def of(self, rank: int) -> Iterator[None]:
        """This thread is a rank. Its failure ends the others' waiting."""
        self._thread.rank, self._thread.stream = rank, streams.Stream()
        try:
            with streams.on(streams.Stream()):
                yield
        except threading.BrokenBarrierError:
            pass  # another rank has failed
        except Exception as error:  # noqa: BLE001 - whatever it is, the drive tells it
            self.error = self.error or f"{type(error).__name__}: {error}"
            self._barrier.abort()

    def meet(self) -> None:
        """Wait for all ranks."""
        self._barrier.wait(_PATIENCE_S)

    def _all_to_all(
        self, out: Tensor, x: Tensor, receive: Sequence[int], send: Sequence[int], *, group: None
    ) -> None:
        assert group is None, "halves of a replica are not emulated"
        rank = self._thread.rank
        self._check(x, out)
        _expect(sum(send) == len(x), f"{len(x)} rows, and {send} are to be sent")
        _expect(sum(receive) == len(out), f"{len(out)} rows, and {receive} are to be received")
        with self._swap("all_to_all", x, send) as posted, self._queued(x, out):
            parts = [torch.split(its, list(lengths))[rank] for its, lengths in posted]
            _expect(
                [len(part) for part in parts] == list(receive),
                f"rank {rank} expects {receive}, and peers send {[len(part) for part in parts]}",
            )
            for part in parts:
                same = part.dtype == out.dtype and part.shape[1:] == out.shape[1:]
                _expect(same, f"{part.dtype} {part.shape} for {out.dtype} {out.shape}")
            numbers(out).copy_(torch.cat(parts))

    def _broadcast(self, x: Tensor, *, group: None, group_src: int) -> None:
        assert group is None, "halves of a replica are not emulated"
        self._check(x)
        with self._swap("broadcast", x, None) as posted, self._queued(x, x):
            first = posted[group_src][0]
            same = first.dtype == x.dtype and first.shape == x.shape
            _expect(same, f"{first.dtype} {first.shape} for {x.dtype} {x.shape}")
            numbers(x).copy_(first)

    def _rotate(self, transfers: Sequence[tuple[bool, Tensor, int]]) -> list[Any]:
        rank, stream = self._thread.rank, self._thread.stream
        self.calls["rotate"] += 1
        for sends, buffer, peer in transfers:
            self._check(buffer)
            if sends:
                self._sent[rank, peer].put(numbers(buffer).clone())
        self._begin()
        for sends, buffer, peer in transfers:
            with streams.on(stream):
                stream.queue()
                (buffer.memory.read if sends else buffer.memory.write)("a transfer")
            if sends:
                continue
            came = self._sent[peer, rank].get(timeout=_PATIENCE_S)
            same = came.dtype == buffer.dtype and came.shape == buffer.shape
            _expect(same, f"{came.dtype} {came.shape} for {buffer.dtype} {buffer.shape}")
            numbers(buffer).copy_(came)
        return [_Transfer(stream)]

    @contextlib.contextmanager
    def _swap(self, call: str, x: Tensor, lengths: Any) -> Iterator[list[tuple[Tensor, Any]]]:
        """What all ranks brought to this call, until all have taken of it."""
        self.calls[call] += 1
        self._posted[self._thread.rank] = (call, numbers(x).clone(), lengths)
        self.meet()
        calls = {its[0] for its in self._posted}
        _expect(len(calls) == 1, f"ranks call {' and '.join(sorted(calls))}")
        posted = [its[1:] for its in self._posted]
        self.meet()
        yield posted

    @contextlib.contextmanager
    def _queued(self, x: Any, out: Any) -> Iterator[None]:
        """One operation that reads `x` and writes `out`; the rank's stream waits for it."""
        stream = self._begin()
        with streams.on(stream):
            stream.queue()
            x.memory.read("an exchange")
            out.memory.write("an exchange")
        yield
        streams.current().wait_stream(stream)

    def _begin(self) -> streams.Stream:
        stream: streams.Stream = self._thread.stream
        stream.wait_stream(streams.current())
        return stream

    def _check(self, *buffers: Tensor) -> None:
        for buffer in buffers:
            _expect(isinstance(buffer, CudaTensor), "a buffer is on the host")
            _expect(buffer.is_contiguous(), f"a buffer {tuple(buffer.shape)} is not contiguous")


def _operation(
    operation: Any, buffer: Tensor, *, group: None, group_peer: int
) -> tuple[bool, Tensor, int]:
    assert group is None, "halves of a replica are not emulated"
    return operation is dist.isend, buffer, group_peer


class _Transfer:
    """What `batch_isend_irecv` returns."""

    def __init__(self, stream: streams.Stream) -> None:
        self._stream = stream

    def wait(self) -> None:
        """Have the rank's stream wait, not the host."""
        streams.current().wait_stream(self._stream)


def numbers(x: Any) -> Tensor:
    """What the card's tensor holds."""
    held: Tensor = x.numbers
    return held


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
