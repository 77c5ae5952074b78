"""How the ranks of a replica find each other: through a TCPStore that rank 0 serves."""

from __future__ import annotations

import datetime as dt
import socket
import time

from torch.distributed import DistStoreError, TCPStore  # type: ignore[attr-defined]

from batchgen.engine.interface import Rendezvous
from batchgen.errors import DeviceFault

# Seconds until all ranks have come. Slow file systems and nodes do not start them together.
JOIN_S = 600.0
_POLL_S = 1.0


def open_store(rendezvous: Rendezvous) -> TCPStore:
    """Serve the store on a free port and publish its address, or, on other ranks, connect to it.

    :raises DeviceFault: rank 0 does not come, or does not answer.
    """
    rank, end = name_rank(rendezvous), time.monotonic() + JOIN_S
    try:
        if rendezvous.rank == 0:
            store = connect(socket.gethostname(), 0, is_master=True)
            rendezvous.publish(f"{store.host}:{store.port}")
            return store
        while not (address := rendezvous.find()):
            if time.monotonic() > end:
                raise DeviceFault(f"{rank}: rank 0 did not come within {JOIN_S:.0f} s")
            time.sleep(_POLL_S)
        host, _, port = address.rpartition(":")
        return connect(host, int(port))
    except RuntimeError as error:
        raise DeviceFault(f"{rank}: rank 0 does not answer: {first_line(error)}") from error


def connect(host: str, port: int, *, is_master: bool = False) -> TCPStore:
    """A connection to the store, which does one thing at a time: a waiting thread needs its own."""
    wait = dt.timedelta(seconds=JOIN_S)
    return TCPStore(host, port, is_master=is_master, wait_for_workers=False, timeout=wait)


def wait_for_all(store: TCPStore, rendezvous: Rendezvous) -> None:
    """Wait until every rank has called this.

    :raises DeviceFault: some ranks do not come; the message lists them.
    """
    here = [f"here/{rank}" for rank in range(rendezvous.degree)]
    store.set(here[rendezvous.rank], "")
    try:
        store.wait(here, dt.timedelta(seconds=JOIN_S))
    except DistStoreError:
        missing = [rank for rank, key in enumerate(here) if not store.check([key])]
        told = f"{name_rank(rendezvous)}: ranks {missing} did not come within {JOIN_S:.0f} s"
        raise DeviceFault(told) from None


def name_rank(rendezvous: Rendezvous) -> str:
    """For example `rank 1 of 2`, for messages."""
    return f"rank {rendezvous.rank} of {rendezvous.degree}"


def first_line(error: BaseException) -> str:
    """The error's message without the C++ stack that PyTorch appends."""
    return str(error).partition("\n")[0]
