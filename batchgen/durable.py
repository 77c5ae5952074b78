"""The few file operations correctness rests on; nothing else in batchgen makes a file final.

Two rules, and every promise about kills follows from them: bytes are synced before a name that vouches for
them appears, and a name appears by one `link`, which happens or does not. `link` never replaces: of two who
try, exactly one wins, on NFS and Lustre too, without locks or clocks.

What this does not promise: a file system that acknowledges fsync without doing it, or has no hard links
(`batchgen submit` refuses the latter).
"""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path
from typing import BinaryIO


def append(file: BinaryIO, data: bytes | memoryview) -> None:
    """All of `data` at the end of an unbuffered file, or OSError (disk full) with some of it there."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def sync(file: BinaryIO) -> None:
    """The file's bytes are on the disk."""
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """The folder's names are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link(source: Path, target: Path) -> bool:
    """Give `source` its further name `target`; True if that name is now this file's, False if it is another's.

    An NFS server may have linked although the answer got lost and the retry says EEXIST: then it is the same file.
    It may also be that whoever linked it died before the name was on the disk: it is synced here all the same.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        if not target.samefile(source):
            return False
    sync_folder(target.parent)
    return True


def write(path: Path, data: bytes) -> None:
    """A file of our own, complete and synced; its name is not one that readers trust."""
    with path.open("wb", buffering=0) as file:
        append(file, data)
        sync(file)


def create(path: Path, data: bytes) -> bool:
    """Make `path` with `data` unless it exists; False if it does. Nobody ever sees it incomplete."""
    if path.exists():
        return False
    temporary = _temporary(path)
    try:
        write(temporary, data)
        return link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def create_from(reserve: Path, path: Path, data: bytes) -> None:
    """`create` on a full disk, in the bytes of a larger file of ours; of several who try, the first one's data counts.

    Removing the reserve to write anew would be a race: whoever filled the disk may still be writing, and take the room.
    """
    mine = _temporary(reserve)
    try:
        reserve.rename(mine)
    except FileNotFoundError:  # another has taken it
        return
    with mine.open("r+b", buffering=0) as file:
        append(file, data)
        file.truncate()
        sync(file)
    link(mine, path)
    mine.unlink()


def replace(path: Path, data: bytes) -> None:
    """Put `data` under a name that may exist: for files recomputable from others (card, index, summary)."""
    temporary = _temporary(path)
    try:
        write(temporary, data)
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """The name is gone; that it was gone already is no error."""
    path.unlink(missing_ok=True)


def is_full(error: BaseException) -> bool:
    """Whether the error says that there is no space left, by disk, quota or file size limit."""
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def _temporary(path: Path) -> Path:
    return path.with_name(
        f".{path.name}.{uuid.uuid4().hex}.tmp"
    )  # a leading dot: no reader's glob finds it
