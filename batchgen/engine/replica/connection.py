"""Messages between two processes that know one secret, over TCP.

Anybody who reaches a port can connect to it. So each end first sends a nonce. Every message then
carries a tag, an HMAC-SHA256 of the message and its number. The key of the tags follows from the
secret, both nonces and the direction. A message with a wrong tag is not read; it ends the
connection. What a stranger makes up, replays, reorders or sends back has therefore no effect.

Not covered: messages are not encrypted. Who can listen to the network can read them.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import struct
import time

_NONCE_BYTES = _TAG_BYTES = 32
_LONGEST_BYTES = 2**26
_LENGTH, _NUMBER = struct.Struct(">I"), struct.Struct(">Q")


class Connection:
    """One end of a connection whose other end knows the secret too."""

    def __init__(
        self, link: socket.socket, secret: bytes, *, serves: bool, within_s: float
    ) -> None:
        """Prove to the other end that this one knows the secret, and have it prove the same.

        :param serves: whether this is the end that was connected to.
        :raises OSError: the other end does not prove it in time.
        """
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._link = link
        self._end: float | None = time.monotonic() + within_s
        mine = secrets.token_bytes(_NONCE_BYTES)
        link.sendall(mine)
        theirs = self._read(_NONCE_BYTES)
        nonces = theirs + mine if serves else mine + theirs
        from_server, from_client = (
            hmac.digest(secret, side + nonces, "sha256") for side in (b"server", b"client")
        )
        self._sent = self._received = 0
        self._send_key, self._receive_key = (
            (from_server, from_client) if serves else (from_client, from_server)
        )
        self.send(b"")
        self.receive(within_s, longest=0)

    def send(self, message: bytes) -> None:
        """Send a message.

        :raises OSError: the other end is gone.
        """
        tag = _tag(self._send_key, self._sent, message)
        self._sent += 1
        self._link.settimeout(None)
        self._link.sendall(_LENGTH.pack(len(message)) + tag + message)

    def receive(self, within_s: float | None = None, *, longest: int = _LONGEST_BYTES) -> bytes:
        """The other end's next message.

        :param within_s: None: however long it takes.
        :param longest: bytes of the longest message that is read at all.
        :raises OSError: the other end is gone, sends nothing in time, or the tag is wrong.
        """
        self._end = None if within_s is None else time.monotonic() + within_s
        header = self._read(_LENGTH.size + _TAG_BYTES)
        (length,) = _LENGTH.unpack_from(header)
        if length > longest:
            raise ConnectionError(f"a message of {length} bytes")
        message = self._read(length)
        tag = _tag(self._receive_key, self._received, message)
        if not hmac.compare_digest(tag, header[_LENGTH.size :]):
            raise ConnectionError("a message of somebody who does not know the secret")
        self._received += 1
        return message

    def close(self) -> None:
        """Close it; the other end is told that this one is gone."""
        self._link.close()

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            left_s = None if self._end is None else max(self._end - time.monotonic(), 0.001)
            self._link.settimeout(left_s)
            part = self._link.recv(count - len(data))
            if not part:
                raise ConnectionError("the other end has closed the connection")
            data += part
        return bytes(data)


def _tag(key: bytes, number: int, message: bytes) -> bytes:
    return hmac.digest(key, _NUMBER.pack(number) + message, "sha256")
