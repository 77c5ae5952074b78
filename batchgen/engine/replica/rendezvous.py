"""How the ranks of a replica find each other: rank 0 serves a store and publishes its address.

The address holds a new secret. Rank 0 publishes it where only this user can read, and the store
serves only who knows it (connection.py). Rank 0 listens at the narrowest address that works: if all
ranks are on one machine, at one that no other machine can reach.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Iterator

from batchgen.engine.interface import Rendezvous
from batchgen.engine.replica.store import Store, StoreServer
from batchgen.errors import DeviceFault

# Seconds until all ranks have come. Slow file systems and nodes do not start them together.
JOIN_S = 600.0
_POLL_S = 1.0
_LOOPBACK = "127.0.0.1"


def open_store(rendezvous: Rendezvous) -> Store:
    """Serve the store and publish its address, or find it on other ranks, and connect to it.

    :raises DeviceFault: rank 0 does not come, or does not answer.
    """
    if rendezvous.rank == 0:
        secret = secrets.token_bytes(32)
        host, port = _serve(secret, one_machine=rendezvous.one_machine)
        rendezvous.publish(f"{host or socket.gethostname()} {port} {secret.hex()}")
        return Store(host or _LOOPBACK, port, secret, JOIN_S)
    host, port_text, secret_text = _wait_for_address(rendezvous).split()
    try:
        return Store(host, int(port_text), bytes.fromhex(secret_text), JOIN_S)
    except DeviceFault as error:
        raise DeviceFault(f"{name_rank(rendezvous)}: {error}") from error


def _wait_for_address(rendezvous: Rendezvous) -> str:
    end = time.monotonic() + JOIN_S
    while not (address := rendezvous.find()):
        if time.monotonic() > end:
            rank = name_rank(rendezvous)
            raise DeviceFault(f"{rank}: rank 0 did not come within {JOIN_S:.0f} s")
        time.sleep(_POLL_S)
    return address


def _serve(secret: bytes, *, one_machine: bool) -> tuple[str, int]:
    """Serve the store.

    :return: the address that it listens at, "" for all of this machine's, and the port.
    """
    for host in [_LOOPBACK] if one_machine else _own_addresses():
        with contextlib.suppress(OSError):  # the name stands for an address of a router
            return host, StoreServer(host, secret).port
    return "", StoreServer("", secret).port


def _own_addresses() -> Iterator[str]:
    """The addresses that this machine's name stands for and that other machines may reach."""
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except OSError:
        return
    for _, _, _, _, (address, *_) in found:
        if not str(address).startswith(("127.", "::1", "fe80:")):
            yield str(address)


def keep_to_this_machine() -> None:
    """Have gloo and NCCL listen at addresses that no other machine can reach.

    They read the names of interfaces from these variables. What a person has set stays.
    """
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(variable, loopback)


def wait_for_all(store: Store, rendezvous: Rendezvous) -> None:
    """Wait until every rank has called this.

    :raises DeviceFault: some ranks do not come; the message lists them.
    """
    here = [f"here/{rank}" for rank in range(rendezvous.degree)]
    store.set(here[rendezvous.rank], "")
    if missing := store.missing(here, JOIN_S):
        ranks = [here.index(key) for key in missing]
        told = f"{name_rank(rendezvous)}: ranks {ranks} did not come within {JOIN_S:.0f} s"
        raise DeviceFault(told)


def leave_together(store: Store, rendezvous: Rendezvous, within_s: float) -> list[int]:
    """Say that this rank needs the store no more; as rank 0, serve it until all others said so.

    :param within_s: seconds that rank 0 waits for the others. One that crashed says nothing.
    :return: on rank 0, the ranks that have not said so in time.
    """
    left = [f"left/{rank}" for rank in range(rendezvous.degree)]
    if rendezvous.rank == 0:
        return [left.index(key) for key in store.missing(left[1:], within_s)]
    with contextlib.suppress(DeviceFault):  # heard, and rank 0 left before its answer came
        store.set(left[rendezvous.rank], "")
    return []


def name_rank(rendezvous: Rendezvous) -> str:
    """For example `rank 1 of 2`, for messages."""
    return f"rank {rendezvous.rank} of {rendezvous.degree}"


def first_line(error: BaseException) -> str:
    """The error's message without the C++ stack that PyTorch appends."""
    return str(error).partition("\n")[0]
