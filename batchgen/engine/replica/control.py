"""The control channel between a replica's ranks: calls, failures, and a watchdog.

All ranks share one key-value store, which rank 0 serves (store.py). It holds:

    calls/R   a queue: what rank 0 asks follower R to do
    life/R    a counter: rank R's signs of life
    left/R    follower R has left in good order
    failed    which rank failed first, and why

A rank that fails writes `failed`; only the first writer counts. Every rank then has `GRACE_S` to
end by itself. Over gloo that takes no time: an exchange with a rank that has ended is an error.

Each rank has a watchdog, a thread that looks at the store every `WATCH_S`. It ends its process if
that still hangs after the grace. Killed and frozen ranks write nothing: rank 0's watchdog notices
that they give no signs of life. If rank 0 ends, so does the store, which the others notice.

If the pictures in work may be the cause (out of memory, or an exception in a step), the failed rank
names them, and rank 0 reports a *verdict* before it ends. Errors of a device and lost ranks say
nothing about pictures.

If rank 0 freezes or its machine loses power, the others notice after `store.ANSWER_S`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from batchgen.engine.interface import Rendezvous, Verdict
from batchgen.engine.replica.rendezvous import first_line, leave_together, name_rank, open_store
from batchgen.engine.replica.store import Store
from batchgen.errors import DeviceFault, InputError, OutOfMemory

# Seconds between two looks of a watchdog, which gives a sign of life at each.
WATCH_S = 1.0
# Looks without a sign of life until rank 0 gives a rank up. A library may hold all threads of a
# process for seconds.
SILENT = 30
# Seconds for a rank to end by itself after its replica has failed.
GRACE_S = 15.0
# Seconds after which a follower that waits for a call asks again.
WAIT_S = 60.0
# Exit status of a rank whose replica has failed.
LOST = 75
_FAILED = "failed"

_log = logging.getLogger(__name__)


class _Failure(NamedTuple):
    """Why a rank failed. Without a cause, its pictures have nothing to do with it."""

    why: str
    cause: Literal["", "out of memory", "exception"] = ""
    pictures: Sequence[int] = ()


class ControlChannel:
    """This rank's connection to its replica."""

    def __init__(self, rendezvous: Rendezvous) -> None:
        """Connect, and start the watchdog.

        :raises DeviceFault: rank 0 does not come, or does not answer.
        """
        self.rendezvous, self.store = rendezvous, open_store(rendezvous)
        # Keys of the pictures that this rank was last told to work on.
        self.pictures: Sequence[int] = ()
        self._left = threading.Event()
        self._reporting, self._reported = threading.Lock(), False
        self._ending = False
        self._followers = range(1, rendezvous.degree)
        store = self.store.another()
        threading.Thread(target=self._watch, args=(store,), name="watchdog", daemon=True).start()

    def __str__(self) -> str:
        return name_rank(self.rendezvous)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Around everything that all ranks do: if this rank fails in it, the others are told.

        :raises DeviceFault: this replica can compute nothing more; the message says which rank
            failed first, and why.
        """
        try:
            yield
        except BaseException as error:
            failure = self._describe(error)
            with contextlib.suppress(DeviceFault):  # the store may have ended with rank 0
                failure = self._publish(self.store, failure)
            if not self._ending and not isinstance(error, InputError):
                # Python would destroy communicators, which may wait for other ranks.
                atexit.register(_exit, 0 if isinstance(error, SystemExit) else LOST)
                self._ending = True
            self._report(failure)
            if isinstance(error, InputError) or not isinstance(error, Exception):
                raise
            raise self._fault(failure) from error

    def send(self, *call: Any, pictures: Sequence[int] = ()) -> None:
        """Rank 0: call all followers.

        :param pictures: keys of the pictures that the call is about.
        """
        self._check()
        self.pictures = pictures
        for rank in self._followers:
            self.store.push(f"calls/{rank}", json.dumps(call))

    def receive(self) -> Any:
        """A follower: wait for the next call, however long it takes."""
        self.pictures = ()
        calls = f"calls/{self.rendezvous.rank}"
        while (call := self.store.pop(calls, WAIT_S)) is None:
            pass
        self._check()
        return json.loads(call)

    def close(self) -> None:
        """Leave in good order. Rank 0 waits for the others, because it serves the store."""
        self._left.set()
        if busy := leave_together(self.store, self.rendezvous, GRACE_S):
            _log.warning("%s ends although others are busy: ranks %s", self, busy)

    def _describe(self, error: BaseException) -> _Failure:
        """This rank's own failure."""
        why = f"{self} on {socket.gethostname()}: {type(error).__name__}: {first_line(error)}"
        blameless = isinstance(error, DeviceFault | InputError) or not isinstance(error, Exception)
        if blameless or not self.pictures:
            return _Failure(why)
        out_of_memory = isinstance(error, OutOfMemory)
        return _Failure(why, "out of memory" if out_of_memory else "exception", self.pictures)

    def _publish(self, store: Store, failure: _Failure) -> _Failure:
        """Tell all ranks. The first failure counts, and is returned."""
        first = _Failure(*json.loads(store.set_first(_FAILED, json.dumps(failure))))
        for rank in self._followers:  # wakes those that wait for a call
            store.push(f"calls/{rank}", "null")
        return first

    def _published(self, store: Store) -> _Failure | None:
        failure = store.get(_FAILED)
        return _Failure(*json.loads(failure)) if failure else None

    def _check(self) -> None:
        if failure := self._published(self.store):
            raise self._fault(failure)

    def _fault(self, failure: _Failure) -> DeviceFault:
        return DeviceFault(f"{self}: the replica has failed. {failure.why}")

    def _report(self, failure: _Failure) -> None:
        """Rank 0: report the verdict if there is one, once."""
        with self._reporting:
            if self.rendezvous.rank == 0 and failure.cause and not self._reported:
                self._reported = True
                verdict = Verdict(failure.cause, tuple(failure.pictures), failure.why)
                self.rendezvous.report(verdict)

    def _watch(self, store: Store) -> None:
        """The watchdog: end the process if it outlives its replica, wherever it hangs."""
        # Of each follower, on rank 0: signs of life, and looks since the last one.
        signs = dict.fromkeys(self._followers if self.rendezvous.rank == 0 else (), (0, 0))
        while not self._left.wait(WATCH_S):
            try:
                self._exchange_signs(store, signs)
                failure = self._published(store)
            except DeviceFault as error:
                failure = _Failure(str(error))
            if failure and not self._left.wait(GRACE_S):
                try:
                    self._report(failure)
                finally:
                    _log.error("%s ends with its replica. %s", self, failure.why)
                    _exit(LOST)

    def _exchange_signs(self, store: Store, signs: dict[int, tuple[int, int]]) -> None:
        """Give a sign of life, and look for those of others. One that has given none may start."""
        store.add(f"life/{self.rendezvous.rank}", 1)
        for rank, (before, looks) in signs.items():
            now = store.add(f"life/{rank}", 0)
            signs[rank] = now, looks + 1 if now and now == before else 0
            if looks == SILENT:
                silent_s = SILENT * WATCH_S
                why = f"rank {rank} gave no sign of life for {silent_s:.0f} s"
                self._publish(store, _Failure(why))


def _exit(status: int) -> None:
    """End the process at once: no exit functions, no destructors."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
