"""Files that are read whole, and so must have an end.

A named pipe makes its reader wait for ever, and `/dev/zero` fills its memory. Whoever reads a file
that people, or programs of theirs, may have put there reads it through here.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path


def open_regular(path: Path) -> BufferedReader:
    """Open a file to read it.

    :raises OSError: there is none, it may not be read, or it is a folder, a pipe or a device.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    mode = os.stat(descriptor).st_mode  # noqa: PTH116 - a descriptor has no Path
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "Not a regular file, but a pipe, a socket or a device", str(path))


def read_regular(path: Path) -> bytes:
    """The content of a file; raises as `open_regular`."""
    with open_regular(path) as file:
        return file.read()
