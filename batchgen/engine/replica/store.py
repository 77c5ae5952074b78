"""A key-value store that rank 0 serves to processes that know its secret.

It takes the place of PyTorch's TCPStore, which lets everybody read and write who can connect.
Requests and answers are JSON, and values are texts.
"""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from batchgen.engine.replica.connection import Connection
from batchgen.errors import DeviceFault

# Seconds that an answer may take longer than what is waited for. A library may hold all threads of
# rank 0 for some seconds.
ANSWER_S = 60.0
# Seconds in which a process that connects has to prove that it knows the secret.
GREETING_S = 10.0
# Processes that may be proving at the same time that they know the secret. More have to wait, so
# that strangers do not use up the files and threads of rank 0.
_GREETINGS = 64
# Refusals that are logged: strangers must not fill the disk.
_LOGGED = 20

_log = logging.getLogger(__name__)


class Store:
    """A connection to the store. It does one thing at a time: a waiting thread needs its own.

    Every method raises `DeviceFault` if rank 0 is gone or does not answer: nothing more can be
    computed together.
    """

    def __init__(self, host: str, port: int, secret: bytes, join_s: float) -> None:
        """Connect.

        :param join_s: seconds in which rank 0 must prove that it knows the secret.
        """
        self._where = host, port, secret, join_s
        self._turn = threading.Lock()
        with _rank_0_needed():
            self._connection: Connection | None = self._connect()

    def another(self) -> Store:
        """Another connection to the same store."""
        return Store(*self._where)

    def set(self, key: str, value: str) -> None:
        """Give a key a value."""
        self._ask("set", key, value)

    def set_first(self, key: str, value: str) -> str:
        """Give a key a value unless it has one. What the key has then is returned."""
        return str(self._ask("set_first", key, value))

    def get(self, key: str, wait_s: float = 0.0) -> str | None:
        """The key's value, as soon as it has one; None if it has none in time."""
        value = self._ask("get", key, wait_s, wait_s=wait_s)
        return None if value is None else str(value)

    def missing(self, keys: Sequence[str], wait_s: float) -> list[str]:
        """Wait until all keys have values, and return those that have none in time."""
        end = time.monotonic() + wait_s
        return [key for key in keys if self.get(key, max(end - time.monotonic(), 0.0)) is None]

    def add(self, key: str, number: int) -> int:
        """Add to the key's number, 0 at first, and return the sum."""
        return int(self._ask("add", key, number))

    def push(self, key: str, value: str) -> None:
        """Append to a queue."""
        self._ask("push", key, value)

    def pop(self, key: str, wait_s: float) -> str | None:
        """Take a queue's oldest value, as soon as there is one; None if there is none in time."""
        value = self._ask("pop", key, wait_s, wait_s=wait_s)
        return None if value is None else str(value)

    def _ask(self, *request: Any, wait_s: float = 0.0) -> Any:
        with self._turn, _rank_0_needed():
            # A signal may raise an exception between request and answer. What is left of that
            # exchange must not be taken for the next answer: the next request connects anew.
            connection, self._connection = self._connection or self._connect(), None
            try:
                connection.send(json.dumps(request).encode())
                answer = json.loads(connection.receive(wait_s + ANSWER_S))
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            return answer

    def _connect(self) -> Connection:
        host, port, secret, join_s = self._where
        link = socket.create_connection((host, port), timeout=join_s)
        try:
            return Connection(link, secret, serves=False, within_s=join_s)
        except BaseException:
            link.close()
            raise


@contextmanager
def _rank_0_needed() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DeviceFault(f"rank 0 is gone or does not answer: {error}") from error


class StoreServer:
    """Serves the store for as long as the process lives, each connection in a thread of its own."""

    def __init__(self, host: str, secret: bytes) -> None:
        """Listen on a free port.

        :param host: the address to listen at; "" for all of this machine's.
        :raises OSError: it is no address of this machine.
        """
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._secret, self._content = secret, _Content()
        self._listener = socket.create_server((host, 0), family=family, backlog=128)
        self._refused = 0
        self._greetings = threading.BoundedSemaphore(_GREETINGS)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="store", daemon=True).start()

    def _accept(self) -> None:
        while True:
            self._greetings.acquire()
            try:
                link, stranger = self._listener.accept()
                threading.Thread(target=self._serve, args=(link, stranger), daemon=True).start()
            except (OSError, RuntimeError) as error:  # no more files, no more threads
                self._greetings.release()
                _log.warning("the store could not take a connection: %s", error)
                time.sleep(0.1)

    def _serve(self, link: socket.socket, stranger: Any) -> None:
        """Answer requests until the other process is gone."""
        with link:
            try:
                connection = Connection(link, self._secret, serves=True, within_s=GREETING_S)
            except OSError as error:
                self._refused += 1
                if self._refused <= _LOGGED:
                    _log.warning("a connection from %s was refused: %s", stranger[0], error)
                return
            finally:
                self._greetings.release()
            try:
                while True:
                    name, *words = json.loads(connection.receive())
                    connection.send(json.dumps(self._content.answer(name, words)).encode())
            except OSError:
                return


class _Content:
    """What the store holds: values and queues, by key."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._queues: defaultdict[str, deque[str]] = defaultdict(deque)
        self._changed = threading.Condition()

    def answer(self, name: str, words: list[Any]) -> Any:
        """Do what a request asks."""
        with self._changed:
            match name, words:
                case "set", [key, value]:
                    self._values[key] = value
                case "set_first", [key, value]:
                    value = self._values.setdefault(key, value)
                case "get", [key, wait_s]:
                    self._changed.wait_for(lambda: key in self._values, wait_s)
                    return self._values.get(key)
                case "add", [key, number]:
                    value = self._values[key] = str(int(self._values.get(key, "0")) + number)
                case "push", [key, value]:
                    self._queues[key].append(value)
                case "pop", [key, wait_s]:
                    found = self._changed.wait_for(lambda: self._queues[key], wait_s)
                    return self._queues[key].popleft() if found else None
                case _:
                    raise AssertionError(f"the store knows no {name!r} of {len(words)} words")
            self._changed.notify_all()
            return value
