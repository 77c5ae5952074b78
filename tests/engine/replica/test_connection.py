"""A connection believes only who proves that he knows the secret, and every message only once."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from batchgen.engine.interface import Rendezvous
from batchgen.engine.replica import store as module
from batchgen.engine.replica.connection import Connection
from batchgen.engine.replica.control import ControlChannel
from batchgen.engine.replica.rendezvous import JOIN_S, leave_together, open_store, wait_for_all
from batchgen.engine.replica.store import Store, StoreServer
from batchgen.errors import DeviceFault

SECRET, OTHER = b"s" * 32, b"o" * 32
Ends = tuple[Connection, Connection, socket.socket, socket.socket]


def connect(ours: socket.socket, theirs: socket.socket, secret: bytes = SECRET) -> list[Any]:
    """What becomes of both ends: a connection, or an error."""

    def end(link: socket.socket, key: bytes, serves: bool) -> Any:
        try:
            return Connection(link, key, serves=serves, within_s=2)
        except OSError as error:
            link.close()
            return error

    with ThreadPoolExecutor(2) as threads:
        ends = [threads.submit(end, ours, SECRET, True), threads.submit(end, theirs, secret, False)]
        return [each.result() for each in ends]


def tcp() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return listener.accept()[0], client


@pytest.fixture
def ends() -> Iterator[Ends]:
    server, client = tcp()
    ours, theirs = connect(server, client)
    yield ours, theirs, server, client
    server.close()
    client.close()


def test_messages_arrive_in_both_directions(ends: Ends) -> None:
    ours, theirs, _, _ = ends
    for message in (b"", b"a", b"x" * 100_000):
        threading.Thread(target=theirs.send, args=(message,)).start()
        assert ours.receive(5) == message
        ours.send(message[:1000])
        assert theirs.receive(5) == message[:1000]


def test_neither_end_believes_one_that_does_not_know_the_secret() -> None:
    for result in connect(*tcp(), secret=OTHER):
        assert isinstance(result, OSError)


def test_a_silent_stranger_is_left_in_time() -> None:
    server, client = tcp()
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        Connection(server, SECRET, serves=True, within_s=0.2)
    assert time.monotonic() - begin < 2
    client.close()


def test_a_stranger_who_sends_back_what_he_gets_proves_nothing() -> None:
    server, client = tcp()

    def echo() -> None:
        while data := client.recv(65536):
            client.sendall(data)

    threading.Thread(target=echo, daemon=True).start()
    with pytest.raises(ConnectionError):
        Connection(server, SECRET, serves=True, within_s=2)
    server.close()


def frames(ends: Ends, *messages: bytes) -> list[bytes]:
    """The bytes of messages that one end sent, taken off the line before the other end reads."""
    _, theirs, server, _ = ends
    taken = []
    for message in messages:
        theirs.send(message)
        taken.append(server.recv(65536))
    return taken


def repeated(first: bytes, second: bytes) -> bytes:
    return first + first


def swapped(first: bytes, second: bytes) -> bytes:
    return second + first


def altered(first: bytes, second: bytes) -> bytes:
    return first[:-1] + bytes([first[-1] ^ 1]) + second


def left_out(first: bytes, second: bytes) -> bytes:
    return second


@pytest.mark.parametrize("change", [repeated, swapped, altered, left_out])
def test_messages_that_somebody_on_the_way_changes_end_the_connection(
    ends: Ends, change: Callable[[bytes, bytes], bytes]
) -> None:
    first, second = frames(ends, b"one", b"two")
    ours, _, _, client = ends
    client.sendall(change(first, second))
    with pytest.raises(ConnectionError, match="does not know the secret"):
        [ours.receive(2), ours.receive(2)]


def test_a_recorded_conversation_proves_nothing_on_another_connection() -> None:
    """The nonces of the two connections differ, and so do the keys."""
    server, client = tcp()
    said: list[bytes] = []
    send, read = client.sendall, client.recv
    relay_server, relay_client = tcp()

    def listen() -> None:  # the client's side, recorded on its way to the server
        while data := relay_server.recv(65536):
            said.append(data)
            send(data)

    def answer() -> None:
        while data := read(65536):
            relay_server.sendall(data)

    for job in (listen, answer):
        threading.Thread(target=job, daemon=True).start()
    ours, theirs = connect(server, relay_client)
    theirs.send(b"believe me")
    assert ours.receive(2) == b"believe me"
    again, stranger = tcp()
    stranger.sendall(b"".join(said))
    with pytest.raises(ConnectionError, match="does not know the secret"):
        Connection(again, SECRET, serves=True, within_s=2)


def test_nothing_is_read_of_a_stranger_but_his_greeting() -> None:
    server, client = tcp()
    client.sendall(b"n" * 32 + (2**31).to_bytes(4, "big") + b"t" * 32)
    with pytest.raises(ConnectionError, match="a message of 2147483648 bytes"):
        Connection(server, SECRET, serves=True, within_s=2)
    client.close()


@pytest.fixture
def served() -> tuple[StoreServer, Store]:
    server = StoreServer("127.0.0.1", SECRET)
    return server, Store("127.0.0.1", server.port, SECRET, 5)


def test_the_store_keeps_values_numbers_and_queues(served: tuple[StoreServer, Store]) -> None:
    _, store = served
    other = store.another()
    assert store.get("key") is None
    assert (store.set_first("key", "first"), other.set_first("key", "second")) == ("first", "first")
    assert (store.add("number", 2), other.add("number", 3)) == (2, 5)
    threading.Timer(0.1, store.push, ("queue", "späte Nachricht")).start()
    assert other.pop("queue", 5) == "späte Nachricht"
    assert other.pop("queue", 0.01) is None
    assert store.missing(["key", "nobody"], 0.01) == ["nobody"]


def test_who_does_not_know_the_secret_is_not_answered(served: tuple[StoreServer, Store]) -> None:
    server, store = served
    with pytest.raises(DeviceFault, match="does not know the secret"):
        Store("127.0.0.1", server.port, OTHER, 2)
    for words in (b"GET / HTTP/1.0\r\n\r\n", b"", b'\x00["set", "failed", "x"]' * 10):
        with socket.create_connection(("127.0.0.1", server.port)) as stranger:
            stranger.sendall(words)
    assert store.get("failed") is None


@pytest.mark.slow
def test_strangers_who_hold_the_line_keep_nobody_out_for_long(
    served: tuple[StoreServer, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, store = served
    monkeypatch.setattr(module, "GREETING_S", 0.5)
    strangers = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(200)]
    store.set("key", "value")  # whoever is in stays in
    assert Store("127.0.0.1", server.port, SECRET, 30).get("key") == "value"
    for stranger in strangers:
        stranger.close()


def test_an_interrupted_request_leaves_no_answer_for_the_next(
    served: tuple[StoreServer, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal's handler may raise an exception at any place."""
    _, store = served
    receive = Connection.receive

    def interrupted(connection: Connection, *words: Any, **more: Any) -> bytes:
        if threading.current_thread() is threading.main_thread():
            raise SystemExit
        return receive(connection, *words, **more)  # the server is not what a signal comes to

    monkeypatch.setattr(Connection, "receive", interrupted)
    with pytest.raises(SystemExit):
        store.set_first("key", "first")
    monkeypatch.setattr(Connection, "receive", receive)
    assert store.get("nothing") is None
    assert store.get("key", 5) == "first"


def test_ranks_on_one_machine_meet_where_no_other_machine_can_reach() -> None:
    published: list[str] = []
    store = open_store(Rendezvous(0, 2, publish=published.append, one_machine=True))
    host, port, secret = published[0].split()
    assert host == "127.0.0.1"
    assert len(bytes.fromhex(secret)) == 32
    follower = Rendezvous(1, 2, find=lambda: published[0], one_machine=True)
    open_store(follower).set("here", "")
    assert store.missing(["here"], JOIN_S) == []
    with pytest.raises(OSError, match=r"refused|unreachable"):
        socket.create_connection(("127.0.0.2", int(port)), timeout=5).close()


def test_rank_0_serves_until_the_others_have_left_and_they_leave_without_its_answer() -> None:
    """It went at once, so that a slower rank's last question had no answer."""
    published: list[str] = []
    first = Rendezvous(0, 2, publish=published.append, one_machine=True)
    second = Rendezvous(1, 2, find=lambda: published[0], one_machine=True)
    store = open_store(first)
    other = open_store(second)
    with ThreadPoolExecutor(1) as threads:
        met = threads.submit(wait_for_all, store, first)
        wait_for_all(other, second)
        met.result(5)
        gone = threads.submit(leave_together, store, first, 30)
        time.sleep(0.2)
        assert not gone.done()
        other._connection.close()  # type: ignore[union-attr]
        leave_together(other, second, 30)
        store.another().set("left/1", "")  # it was heard, and the answer got lost
        gone.result(5)
    assert store.missing(["left/1"], 0) == []


def test_a_rank_that_leaves_in_good_order_needs_no_answer() -> None:
    """Rank 0 goes as soon as it has heard the last rank, whose answer may then be lost."""
    published: list[str] = []
    first = Rendezvous(0, 2, publish=published.append, one_machine=True)
    leader = ControlChannel(first)
    follower = ControlChannel(Rendezvous(1, 2, find=lambda: published[0], one_machine=True))
    leader.store.set("left/1", "")
    follower.store._connection.close()  # type: ignore[union-attr]
    follower.close()
    leader.close()


def test_a_request_that_fails_closes_its_connection(
    served: tuple[StoreServer, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, store = served
    dropped = store._connection
    assert dropped is not None
    monkeypatch.setattr(Connection, "send", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.get("key")
    assert dropped._link.fileno() == -1


def addresses(*found: str) -> Callable[..., Any]:
    return lambda *_, **__: [(0, 0, 0, "", (address, 0)) for address in found]


@pytest.mark.parametrize(
    ("found", "host"),
    [
        (("127.0.1.1", "127.0.0.2"), socket.gethostname()),
        (("192.0.2.1",), socket.gethostname()),
        ((), socket.gethostname()),
    ],
)
def test_ranks_on_several_machines_meet_at_an_address_that_others_can_reach(
    monkeypatch: pytest.MonkeyPatch, found: tuple[str, ...], host: str
) -> None:
    """A name may stand for loopback (Debian), or for a router's address: then it is any address."""
    published: list[str] = []
    resolve = socket.getaddrinfo

    def getaddrinfo(name: Any, *words: Any, **more: Any) -> Any:
        return (
            addresses(*found)() if name == socket.gethostname() else resolve(name, *words, **more)
        )

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    open_store(Rendezvous(0, 2, publish=published.append)).set("key", "")
    assert published[0].split()[0] == host
