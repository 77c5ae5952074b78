"""What holds a replica's ranks together: a key-value store that all of them share, and in each a watch over the others.

Whoever fails says so in the store, and all have `GRACE_S` to end by themselves. Over gloo they do so at once: a peer's end is an error in
their exchanges. A rank that waits for one that will never come is ended by its watch, a thread. Killed and frozen ranks say nothing: rank
0's watch misses their signs of life. Rank 0 keeps the store, so its own end is seen by all.

If the pictures at hand may be the reason (they did not fit, or something was raised in a step), the rank that failed first says so and
which they were, and rank 0 reports that *verdict* before it ends. A device's error and a lost peer say nothing about pictures.

Not covered: rank 0's machine freezes or loses power; the others wait until an exchange times out, or the scheduler ends them.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime as dt
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch.distributed import DistStoreError, TCPStore  # type: ignore[attr-defined] # public, but in no list of exports

from batchgen.engine.interface import Rendezvous, Verdict
from batchgen.engine.replica.rendezvous import JOIN_S, WATCH_S, connect, first_line, open_store
from batchgen.errors import DeviceFault, InputError, OutOfMemory

log = logging.getLogger(__name__)
SILENT = 30  # looks without a sign of life, and rank 0 gives a rank up; a library may hold all of a rank's threads for seconds
GRACE_S = 15.0  # for a rank to end by itself after its replica has failed
LOST = 75  # exit status of a rank whose replica has failed
_FAILED = "failed"  # the store's key of the reason


@dataclass(frozen=True, slots=True)
class _Failure:
    """What the rank that failed first says."""

    why: str
    cause: Literal["", "out of memory", "exception"] = ""  # "": nothing to do with the pictures
    pictures: Sequence[int] = ()

    @classmethod
    def parse(cls, said: bytes) -> _Failure:
        return cls(**json.loads(said))

    def encode(self) -> str:
        return json.dumps(asdict(self))


class ControlChannel:
    """This process's hold on its replica."""

    def __init__(self, seat: Rendezvous) -> None:
        """:raises DeviceFault: rank 0 is not to be found."""
        self.seat, self.store = seat, open_store(seat)
        self.pictures: Sequence[int] = ()  # keys of those that this rank was last told to work on
        self._parted = threading.Event()
        self._turn, self._reported = threading.Lock(), False
        self._status: int | None = None  # with which this process will exit
        self._followers = range(1, seat.degree)
        threading.Thread(
            target=self._watch, args=(self.connect(),), name="watch", daemon=True
        ).start()

    def __str__(self) -> str:
        return f"rank {self.seat.rank} of {self.seat.degree}"

    def connect(self) -> TCPStore:
        """The store through another connection: one does one thing at a time, and may be waiting."""
        return connect(self.store.host, self.store.port)

    def meet(self) -> None:
        """Wait for all ranks.

        :raises DeviceFault: they do not come.
        """
        here = {rank: f"here/{rank}" for rank in range(self.seat.degree)}
        self.store.set(here[self.seat.rank], "")
        try:
            self.store.wait([*here.values()], dt.timedelta(seconds=JOIN_S))
        except DistStoreError:
            missing = [rank for rank, key in here.items() if not self.store.check([key])]
            raise DeviceFault(
                f"{self}: ranks {missing} did not come within {JOIN_S:.0f} s"
            ) from None

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What all ranks do alike. Whatever is raised in it, the others may be waiting for this rank: they are told.

        :raises DeviceFault: nothing more may be computed in this replica; the message tells who failed first, and why.
        """
        try:
            yield
        except BaseException as error:
            failure = self._failure(error)
            with contextlib.suppress(RuntimeError):  # the store may have gone with rank 0
                failure = self._give_up(self.store, failure)
            if self._status is None and not isinstance(error, InputError):
                self._status = 0 if isinstance(error, SystemExit) else LOST
                atexit.register(
                    _end, self._status
                )  # before Python destroys communicators, which may wait for the others
            self._report(failure)
            if isinstance(error, InputError) or not isinstance(error, Exception):
                raise
            raise DeviceFault(f"{self}: the replica has failed. {failure.why}") from error

    def say(self, *call: Any, pictures: Sequence[int] = ()) -> None:
        """Rank 0: call all followers.

        :param pictures: keys of those the call is about.
        """
        self._check()
        self.pictures = pictures
        for rank in self._followers:
            self.store.queue_push(f"calls/{rank}", json.dumps(call))

    def hear(self) -> Any:
        """A follower: the next call. Silence may last as long as it likes."""
        self.pictures = ()
        while True:
            with contextlib.suppress(DistStoreError):  # no call in a long time
                call = json.loads(self.store.queue_pop(f"calls/{self.seat.rank}"))
                self._check()
                return call

    def part(self) -> None:
        """Leave in good order: rank 0, which keeps the store, waits for the others."""
        self._parted.set()
        if self.seat.rank:
            self.store.set(f"left/{self.seat.rank}", "")
            return
        try:
            self.store.wait(
                [f"left/{rank}" for rank in self._followers], dt.timedelta(seconds=GRACE_S)
            )
        except DistStoreError as error:
            log.warning("%s: others are still busy, and will be ended: %s", self, first_line(error))

    def _failure(self, error: BaseException) -> _Failure:
        """What this rank has to say about its error."""
        why = f"{self} on {socket.gethostname()}: {type(error).__name__}: {first_line(error)}"
        if (
            not self.pictures
            or isinstance(error, DeviceFault | InputError)
            or not isinstance(error, Exception)
        ):
            return _Failure(why)
        return _Failure(
            why, "out of memory" if isinstance(error, OutOfMemory) else "exception", self.pictures
        )

    def _give_up(self, store: TCPStore, failure: _Failure) -> _Failure:
        """Tell everybody; the first one's failure stands, and is returned."""
        stands = _Failure.parse(store.compare_set(_FAILED, "", failure.encode()))
        for rank in self._followers:  # who waits for a call need not wait any more
            store.queue_push(f"calls/{rank}", "null")
        return stands

    def _report(self, failure: _Failure) -> None:
        """Rank 0: pass the verdict on, if there is one; the first time."""
        with self._turn:
            if self.seat.rank == 0 and failure.cause and not self._reported:
                self._reported = True
                self.seat.report(Verdict(failure.cause, tuple(failure.pictures), failure.why))

    def _check(self) -> None:
        if self.store.check([_FAILED]):
            raise DeviceFault(
                f"{self}: the replica has failed. {_Failure.parse(self.store.get(_FAILED)).why}"
            )

    def _watch(self, store: TCPStore) -> None:
        """Until this rank parts: give signs of life, and end the process where it outlives its replica, wherever it hangs."""
        seen = dict.fromkeys(
            self._followers if self.seat.rank == 0 else (), (0, 0)
        )  # signs of life, looks since the last
        while not self._parted.wait(WATCH_S):
            try:
                store.add(f"life/{self.seat.rank}", 1)
                for rank, (signs, looks) in seen.items():
                    now = store.add(f"life/{rank}", 0)
                    seen[rank] = now, looks + 1 if now and now == signs else 0
                    if looks == SILENT:
                        self._give_up(
                            store,
                            _Failure(
                                f"rank {rank} gave no sign of life for {SILENT * WATCH_S:.0f} s"
                            ),
                        )
                failure = _Failure.parse(store.get(_FAILED)) if store.check([_FAILED]) else None
            except RuntimeError as error:
                failure = _Failure(f"rank 0 is gone: {first_line(error)}")
            if failure and not self._parted.wait(GRACE_S):
                self._end_with_it(failure)

    def _end_with_it(self, failure: _Failure) -> None:
        """This rank hangs, perhaps in an exchange with the one that failed."""
        try:
            self._report(failure)
        finally:
            log.error("%s ends with its replica. %s", self, failure.why)
            _end(LOST)


def _end(status: int) -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
