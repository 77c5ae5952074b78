"""Log every disk operation of a worker, and end or halt its process at one of them.

This module runs in the worker's process and knows nothing of batchgen. It replaces `open`,
`os.fsync`, `os.link`, `os.replace`, `os.unlink` and `os.mkdir`: no way to the disk is missed, and
batchgen needs no hooks for tests.

An operation's *point* is (what, path inside the run, how many of that before): the same in every
run, whatever the threads do. At a point the process dies (or is stopped) right after the
operation; a write may also be torn in the middle. To die before an operation is to die after the
one before it.

`fsync` is written down but not done: SIGKILL leaves the page cache alone, and what a power cut
would take away is computed from the log (power_cut.py). That makes an enumeration of hundreds of
deaths cheap.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import re
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Parts of names that differ from process to process: random letters, and a process id at the end.
_RANDOM = re.compile(r"\.(?:[0-9a-f]{32}|[0-9a-f]{12})(?=\.)|(?<=\.parquet)\.\d+$")


@dataclass(frozen=True)
class Point:
    """One disk operation of a worker."""

    # create, write, fsync, link, replace, unlink or mkdir.
    op: str
    # Inside the run directory, without the random parts of temporary names.
    path: str
    # How many such operations this process made before.
    ordinal: int

    def __str__(self) -> str:
        return f"{self.op} {self.path} #{self.ordinal}"


@dataclass(frozen=True)
class Interruption:
    """What happens at a point."""

    point: Point
    # In the middle of the write, not after it.
    torn: bool = False
    signal: int = signal.SIGKILL


class Watch:
    """Stands between this process and the files below `root`."""

    def __init__(self, root: Path, log: Path, interruption: Interruption | None) -> None:
        self._root, self._interruption = os.path.realpath(root), interruption
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._lock = threading.Lock()
        self._seen: Counter[tuple[str, str]] = Counter()
        self._open, self._fsync = builtins.open, os.fsync
        self._link, self._replace, self._unlink = os.link, os.replace, os.unlink
        self._mkdir = os.mkdir

    def install(self) -> None:
        builtins.open = io.open = self.open
        os.fsync, os.link, os.replace, os.unlink = self.fsync, self.link, self.replace, self.unlink
        os.mkdir = self.mkdir
        os.rename = _never

    def note(self, **event: Any) -> None:
        """One line in the log, which all processes of a test share."""
        os.write(self._log, json.dumps({"pid": os.getpid(), **event}).encode() + b"\n")

    def open(
        self, file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any
    ) -> Any:
        if not any(letter in mode for letter in "wxa+") or self._inside(file) is None:
            return self._open(file, mode, buffering, *args, **kwargs)
        if buffering == 0:
            opened: Any = _File(os.fspath(file), mode, self)
        else:
            hidden = Path(file).name.startswith(".")
            assert hidden, f"{file} is written through a buffer, which a kill would lose"
            opened = self._open(file, mode, buffering, *args, **kwargs)
        self._happened("create", file, inode=os.fstat(opened.fileno()).st_ino)
        return opened

    def write(self, file: _File, data: bytes) -> int:
        point = self._point("write", file.name)
        if self._interruption == Interruption(point, torn=True, signal=signal.SIGKILL):
            super(_File, file).write(data[: len(data) // 2])
            self._interrupt()
        written = super(_File, file).write(data)
        inode = os.fstat(file.fileno()).st_ino
        self._note_and_interrupt(point, {"inode": inode, "bytes": written})
        return written

    def fsync(self, descriptor: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink()).removesuffix(" (deleted)")
        if self._inside(path) is None:
            return self._fsync(descriptor)
        status = os.fstat(descriptor)
        return self._happened("fsync", path, inode=status.st_ino, size=status.st_size)

    def link(self, source: Any, target: Any) -> None:
        self._link(source, target)
        self._happened("link", target, inode=Path(target).stat().st_ino)

    def replace(self, source: Any, target: Any) -> None:
        self._replace(source, target)
        self._happened("replace", target, inode=Path(target).stat().st_ino)

    def unlink(self, path: Any) -> None:
        self._unlink(path)
        if self._inside(path) is not None:
            self._happened("unlink", path)

    def mkdir(self, path: Any, *args: Any, **kwargs: Any) -> None:
        self._mkdir(path, *args, **kwargs)
        if self._inside(path) is not None:
            self._happened("mkdir", path, inode=Path(path).stat().st_ino)

    def _inside(self, path: Any) -> str | None:
        """The path below the root, "" for the root itself; None for all others."""
        if isinstance(path, int):
            return None
        folder, name = os.path.split(os.fspath(path))
        full = f"{os.path.realpath(folder)}/{name}"
        if full == self._root:
            return ""
        inside = full.removeprefix(self._root + "/")
        return inside if inside != full else None

    def _point(self, op: str, path: Any) -> Point:
        name = _RANDOM.sub("", self._inside(path) or ".")
        with self._lock:
            self._seen[op, name] += 1
            return Point(op, name, self._seen[op, name] - 1)

    def _happened(self, op: str, path: Any, **facts: Any) -> None:
        self._note_and_interrupt(self._point(op, path), {**facts, "file": self._inside(path) or ""})

    def _note_and_interrupt(self, point: Point, facts: dict[str, Any]) -> None:
        self.note(op=point.op, path=point.path, ordinal=point.ordinal, **facts)
        if self._interruption and self._interruption.point == point and not self._interruption.torn:
            self._interrupt()

    def _interrupt(self) -> None:
        assert self._interruption
        self.note(op="interrupt")
        os.kill(os.getpid(), self._interruption.signal)
        time.sleep(0.05)  # a stop reaches the other threads first


class _File(io.FileIO):
    """An unbuffered file whose writes are seen."""

    def __init__(self, path: str, mode: str, watch: Watch) -> None:
        super().__init__(path, mode.replace("b", ""))
        self._watch = watch

    def write(self, data: Any) -> int:
        return self._watch.write(self, bytes(data))


def _never(*_: Any) -> None:
    raise AssertionError("os.rename replaces: batchgen has durable.replace for that")
