"""Files of compiled code and of weights, which only this user can have written."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Iterable
from pathlib import Path

from batchgen import durable


def foreign(status: os.stat_result) -> str:
    """Why another user may have written a file; "" if only this user can have."""
    if not stat.S_ISREG(status.st_mode):
        return "is no plain file"
    if status.st_uid != os.geteuid():
        return f"belongs to user {status.st_uid}, not to you ({os.geteuid()})"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"can be written by others (mode {stat.S_IMODE(status.st_mode):o})"
    return ""


def publish(path: Path, parts: Iterable[bytes | memoryview]) -> bool:
    """Create a file that others cannot write, from the parts of its content.

    It appears complete and durable. While it is written, its name is `.NAME.….tmp`.

    :returns: False if there is a file of that name already.
    :raises OSError: no space, no right to write, or a file system without hard links.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            for part in parts:
                durable.append(file, part)
            durable.sync(file)
        return durable.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
