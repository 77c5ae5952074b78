"""What has run out when nothing more can be written, and what to do.

The system says "No space left on device" also where only inodes are used up: every file takes one.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from batchgen.errors import shell_command

ShortageCause = Literal["disk full", "inodes used up", "quota used up", "file size limit"]
# Bytes that are free on a disk that is called full: a process that has ended may have freed them.
_SLACK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Shortage:
    """What has run out."""

    cause: ShortageCause
    # What the system says, and what it means.
    told: str
    # What a person does before the command is typed again.
    remedy: str


def name_shortage(error: OSError, folder: Path) -> Shortage:
    """What has run out.

    :param error: `durable.is_full` of it is true.
    :param folder: where something was to be written.
    """
    said = error.strerror or str(error)
    if error.errno == errno.EFBIG:
        return Shortage(
            "file size limit", f"{said}: files may not grow larger here", "raise it (ulimit -f)"
        )
    if error.errno == errno.EDQUOT:
        ask = shell_command("quota", "-s")
        told = f"{said}: your quota of bytes or of files is used up (ask: {ask})"
        return Shortage("quota used up", told, f"remove something of yours, below {folder} or not")
    free = _free(folder)
    if free and free.inodes == 0:
        ask = shell_command("df", "-i", folder)
        told = f"{said}: the file system has no inode for another file (ask: {ask})"
        return Shortage("inodes used up", told, "remove files there, small ones too")
    if free and free.bytes > _SLACK_BYTES:
        told = f"{said}, although {free.bytes / 1e9:.1f} GB are free: the folder may have a quota"
        return Shortage("disk full", told, f"free space below {folder}")
    return Shortage("disk full", said, f"free space below {folder}")


@dataclass(frozen=True, slots=True)
class _Free:
    bytes: int
    # None if the file system makes them as it needs them.
    inodes: int | None


def _free(folder: Path) -> _Free | None:
    """What this user may still take of the folder's file system; None if it does not say."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return None
    return _Free(disk.f_bavail * disk.f_frsize, disk.f_favail if disk.f_files else None)
