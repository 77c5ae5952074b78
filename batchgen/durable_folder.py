"""Whether a folder's file system does what `durable.py` rests on: it is tried there.

Runs try it when they are made, nodes before they work, and `batchgen doctor` for people.

Not covered: whether synced bytes outlive a power cut, which no program can see.
"""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

from batchgen import durable

# What a probe that was killed may leave, as endings of its name.
ENDINGS = ("", ".link", ".other")


def try_folder(folder: Path, name: str = "probe") -> int:
    """Write, sync, link and rename files in a folder, and remove them.

    :param name: of the probe; several processes at a time need different ones.
    :return: the link count of a file with two names: 2, or what the file system says instead.
        Nothing rests on it.
    :raises OSError: an operation is refused, or does something else than it should.
    """
    first, second, other = paths = [folder / f"{name}{ending}" for ending in ENDINGS]
    try:
        durable.write(first, b"first")
        durable.write(other, b"other")
        durable.remove(second)  # a killed probe's
        if not (durable.link(first, second) and first.samefile(second)):
            raise _broken("a hard link is a copy", second)
        count = second.stat().st_nlink
        if durable.link(other, second) or second.read_bytes() != b"first":
            raise _broken("a hard link takes the place of another file", second)
        other.replace(first)
        durable.sync_folder(folder)
        if (first.read_bytes(), second.read_bytes()) != (b"other", b"first"):
            raise _broken("a file that was renamed does not replace one name alone", first)
        return count
    finally:
        with contextlib.suppress(OSError):
            for path in paths:
                durable.remove(path)


def _broken(what: str, path: Path) -> OSError:
    return OSError(errno.EOPNOTSUPP, what, str(path))
