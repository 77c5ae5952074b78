"""Streams, events and memory: who waits for whom.

Every operation has a number on its stream. A clock says up to which number each stream's work is
known to be over: for what is queued next on a stream, or for the host. Waits join clocks.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.support import ROOT

Clock = Counter[int]
_PROGRAM = f"{ROOT / 'batchgen'}/"


class Report:
    """What the program did wrong, and where its host waited."""

    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        # Of the device's memory.
        self.bytes = self.most_bytes = 0

    def take(self, size: int) -> None:
        self.bytes += size
        self.most_bytes = max(self.most_bytes, self.bytes)

    def fault(self, what: str, where: str = "") -> None:
        self.faults[f"{what} at {where or program_line()}"] += 1

    def wait(self, what: str) -> None:
        self.waits[f"{what} at {program_line()}"] += 1


def program_line() -> str:
    """The innermost line of the program: `engine/denoise.py:93 denoise`."""
    frame = sys._getframe(1)
    while frame is not None:
        if (file := frame.f_code.co_filename).startswith(_PROGRAM):
            return f"{file.removeprefix(_PROGRAM)}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "?"


report = Report()
# Known to the host, whichever thread.
host: Clock = Counter()


class Stream:
    """A queue of the device."""

    _count = 0

    def __init__(self, device: Any = None, priority: int = 0) -> None:
        Stream._count += 1
        self.number, self.queued = Stream._count, 0
        # What is over before anything that is queued from now on.
        self._after: Clock = Counter()

    def queue(self) -> int:
        """One more operation; its number."""
        self.queued += 1
        return self.queued

    def clock(self) -> Clock:
        """What is over once all that is queued here is over."""
        return self._after | Counter({self.number: self.queued})

    def knows(self, stream: int, operation: int) -> bool:
        """Whether that operation is over before anything that is queued here next."""
        return stream == self.number or max(self._after[stream], host[stream]) >= operation

    def wait(self, clock: Clock) -> None:
        self._after |= clock

    def wait_stream(self, other: Stream) -> None:
        self.wait(other.clock())

    def wait_event(self, event: Event) -> None:
        event.wait(self)

    def synchronize(self) -> None:
        report.wait("a stream's end")
        host.update(self.clock() - host)


_of_thread = threading.local()
_default = Stream()


def current() -> Stream:
    stream: Stream = getattr(_of_thread, "stream", _default)
    return stream


@contextlib.contextmanager
def on(stream: Stream | None) -> Iterator[None]:
    """`torch.cuda.stream`."""
    before, _of_thread.stream = current(), stream or current()
    try:
        yield
    finally:
        _of_thread.stream = before


class Event:
    """A mark on a stream. One that was not recorded is over."""

    def __init__(self, **_: Any) -> None:
        self._clock: Clock = Counter()
        self._at_s = 0.0

    def record(self, stream: Stream | None = None) -> None:
        self._clock, self._at_s = (stream or current()).clock(), time.perf_counter()

    def wait(self, stream: Stream | None = None) -> None:
        (stream or current()).wait(self._clock)

    def synchronize(self) -> None:
        """What is known to be over is not waited for."""
        if self._clock - host:
            report.wait("an event")
            host.update(self._clock - host)

    def elapsed_time(self, other: Event) -> float:
        return (other._at_s - self._at_s) * 1000


class Memory:
    """A storage on the device: its last writer, and the last reader on each stream."""

    def __init__(self, storage: Any) -> None:
        # Held, so that its address is no other's meanwhile.
        self.storage = storage
        self._home, self._where = current(), program_line()
        self._wrote = (self._home.number, self._home.queued)
        self._used: Clock = Counter()
        self._kept: set[int] = set()
        report.take(storage.nbytes())

    def __del__(self) -> None:
        """The allocator may hand it to whatever its stream queues next."""
        report.take(-self.storage.nbytes())
        used = (use for use in self._used.items() if use[0] not in self._kept)
        if not all(self._home.knows(*use) for use in used):
            report.fault("memory is given back while another stream may use it", self._where)

    def read(self, operation: str) -> None:
        here = current()
        if not here.knows(*self._wrote):
            report.fault(f"{operation} reads what another stream may not have written yet")
        self._used[here.number] = here.queued

    def write(self, operation: str) -> None:
        here = current()
        if not all(here.knows(*use) for use in self._used.items()):
            report.fault(f"{operation} writes what another stream may still use")
        self._wrote = here.number, here.queued
        self._used[here.number] = here.queued

    def keep_for(self, stream: Stream) -> None:
        """`Tensor.record_stream`: giving it back waits for that stream."""
        self._kept.add(stream.number)
