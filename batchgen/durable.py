"""The few file operations that correctness rests on; nothing else in batchgen makes a file final.

Every promise about kills follows from two rules. The bytes of a file are synced before a name
appears that readers trust. Such a name appears by one `link`, which happens or does not. `link`
never replaces: if several processes try, exactly one wins, on NFS and Lustre too, without locks or
clocks.

Not covered: file systems that acknowledge fsync without doing it, and file systems without hard
links (`batchgen submit` refuses the latter).
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, TypeGuard

Data = bytes | Iterable[bytes | memoryview]
# Modes of new files: of what readers of a dataset get, and of everything else.
SHARED, PRIVATE = 0o666, 0o600


def append(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write all of `data` to an unbuffered file.

    :raises OSError: the disk is full, for example. A part of the data may have been written.
    """
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def sync(file: BinaryIO) -> None:
    """Put the file's bytes on the disk."""
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Put the names in the folder on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link(source: Path, target: Path) -> bool:
    """Give the file `source` the further name `target`; False if the name is another file's.

    If the answer of an NFS server is lost, the retry says EEXIST although the server has linked:
    then the name is this file's. Another process may have made the link and died before the name
    was on the disk, so the name is synced in any case.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        if not target.samefile(source):
            return False
    sync_folder(target.parent)
    return True


def write(path: Path, data: Data, mode: int = SHARED) -> None:
    """Write a file, complete and synced, under a name that no reader trusts.

    :param data: whole, or in parts, which are not kept in memory.
    :param mode: who may read and write it, if it is new; the umask takes from that.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, mode)

    with open(path, "wb", buffering=0, opener=opener) as file:
        for part in [data] if isinstance(data, bytes) else data:
            append(file, part)
        sync(file)


def create(path: Path, data: Data) -> bool:
    """Make the file `path`, for this user alone; False if it exists.

    Nobody ever sees the file incomplete. While it is written, its name is `.NAME.….tmp`.

    :param data: as in `write`.
    """
    if path.exists():
        return False
    temporary = _temporary(path)
    try:
        write(temporary, data, PRIVATE)
        return link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def create_from(reserve: Path, path: Path, data: bytes) -> None:
    """Make the file `path` on a full disk, in the space of the larger file `reserve`.

    No further inode is needed. Only a file system that counts each name as an inode (tmpfs) refuses
    the link; then the reserve is renamed, and a file `path` made in that moment would be replaced.

    If several processes try, the data of the first counts. To remove the reserve and then write
    would be a race: whoever filled the disk may still be writing, and would take the space.
    """
    mine = _temporary(reserve)
    try:
        reserve.rename(mine)
    except FileNotFoundError:  # another process has taken it
        return
    with mine.open("r+b", buffering=0) as file:
        append(file, data)
        file.truncate()
        sync(file)
    try:
        link(mine, path)
    except OSError as error:
        if not is_full(error):
            raise
        if not path.exists():
            mine.rename(path)
    mine.unlink(missing_ok=True)


def replace(path: Path, data: bytes, mode: int = SHARED) -> None:
    """Write a file whose name may exist. Only for what can be recomputed: card, index, summary.

    :param mode: as in `write`.
    """
    temporary = _temporary(path)
    try:
        write(temporary, data, mode)
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def move(path: Path, folder: Path) -> None:
    """Move a file out of the way, into a folder that has no file of this name."""
    path.rename(folder / path.name)
    sync_folder(folder)
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a name, if it exists."""
    path.unlink(missing_ok=True)


def is_full(error: BaseException) -> TypeGuard[OSError]:
    """Whether nothing more can be written; shortage.py says what has run out."""
    return isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def _temporary(path: Path) -> Path:
    # A name with a leading dot is found by no reader's glob.
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
