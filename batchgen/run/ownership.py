"""Whether a run is this user's alone.

To go on with a run is to do what its files say: lines of its site profile stand in the batch
script, and submitit unpickles what lies in its folders. So they must not be what somebody else
wrote.

Not covered: whoever may rename the run directory itself, because its parent is his or open to him,
can put another in its place while workers run. Put runs where only you can write.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from batchgen.errors import OutputError, shell_command
from batchgen.run.directory import RunDirectory


def refuse_others(directory: RunDirectory) -> None:
    """Refuse a run that belongs to another user, or that others may change.

    :raises OutputError: the message names the file or folder, and what to type.
    """
    for path in _trusted(directory):
        with contextlib.suppress(FileNotFoundError):  # of a submission that was just refused
            _refuse(path, path.stat(), directory.root)


def _refuse(path: Path, status: os.stat_result, root: Path) -> None:
    owned = status.st_uid in (os.geteuid(), 0)
    if not owned and not _says_nothing(path, lambda new: new.st_uid == status.st_uid):
        copy = shell_command("cp", "-r", root, "MY-COPY")
        raise OutputError(
            f"{path}: belongs to {_user(status.st_uid)}, not to you ({_user(os.geteuid())}). To go "
            "on with a run is to do what its files say, so it must be your own. Name another "
            f"folder (a new one is yours), or, if you trust its owner, go on with a copy: {copy}"
        )
    if _others_may_write(status) and not _says_nothing(path, _others_may_write):
        mine = shell_command("chmod", "-R", "go-w", root)
        raise OutputError(
            f"{path}: can be written by others (mode {stat.S_IMODE(status.st_mode):o}). To go on "
            "with a run is to do what its files say, so only you may write them. If nobody else "
            f"has, type: {mine}"
        )


def _trusted(directory: RunDirectory) -> Iterator[Path]:
    """The files and folders whose content is done, and the folders these are in."""
    yield from (directory.root, directory.inner, directory.job, directory.plan, directory.jobs)
    yield from directory.inner.glob("plan-*.json")
    yield from (path for path in directory.jobs.glob("*") if path.suffix in ("", ".json"))
    yield from directory.jobs.glob("*/submitit")


def _others_may_write(status: os.stat_result) -> bool:
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not _is_own_group(status.st_gid)


@lru_cache
def _is_own_group(group: int) -> bool:
    """Whether a group has no other member than this user.

    Many systems give every user such a group, and let it write whatever the user makes. Root's
    group is none: containers put users into it.
    """
    try:
        user, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    same = found.gr_gid == user.pw_gid and found.gr_name == user.pw_name
    return same and user.pw_uid != 0 and set(found.gr_mem) <= {user.pw_name}


def _says_nothing(path: Path, looks_foreign: Callable[[os.stat_result], bool]) -> bool:
    """Whether a new private file beside or in `path` looks foreign too.

    Some file systems give every file the same owner or mode, which then says nothing about others.
    """
    try:
        with tempfile.TemporaryFile(dir=path if path.is_dir() else path.parent) as file:
            return looks_foreign(os.fstat(file.fileno()))
    except OSError:
        return False


def _user(number: int) -> str:
    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:
        return f"user {number}"
