"""batchgen.engine.replica.rendezvous."""

from __future__ import annotations

import datetime as dt
import socket
import time

from torch.distributed import TCPStore  # type: ignore[attr-defined] # public, but in no list of exports

from batchgen.engine.interface import Rendezvous
from batchgen.errors import DeviceFault

JOIN_S = 600.0  # until all ranks have met: slow file systems and nodes do not start them at the same time
WATCH_S = 1.0  # between two looks of a watch, and two signs of life


def open_store(seat: Rendezvous) -> TCPStore:
    """Rank 0 binds a free port and publishes where; the others wait until it has."""
    end = time.monotonic() + JOIN_S
    try:
        if seat.rank == 0:
            store = connect(socket.gethostname(), 0, is_master=True)
            seat.publish(f"{store.host}:{store.port}")
            return store
        while not (address := seat.find()):
            if time.monotonic() > end:
                raise DeviceFault(
                    f"rank {seat.rank} of {seat.degree}: rank 0 did not come within {JOIN_S:.0f} s"
                )
            time.sleep(WATCH_S)
        host, _, port = address.rpartition(":")
        return connect(host, int(port))
    except RuntimeError as error:
        raise DeviceFault(
            f"rank {seat.rank} of {seat.degree}: rank 0 does not answer: {first_line(error)}"
        ) from error


def connect(host: str, port: int, *, is_master: bool = False) -> TCPStore:
    return TCPStore(
        host,
        port,
        is_master=is_master,
        wait_for_workers=False,
        timeout=dt.timedelta(seconds=JOIN_S),
    )


def first_line(error: BaseException) -> str:
    """Without the stack of C++ code that PyTorch appends."""
    return str(error).partition("\n")[0]
