"""What has run out is named: "No space left on device" may mean space, inodes or a quota."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from batchgen.run.stop import read_stop, stop_full
from batchgen.shortage import name_shortage
from tests.support.specimens import new_directory

GB = 10**9


def disk(monkeypatch: pytest.MonkeyPatch, *, free: int, inodes: int, files: int = 1000) -> None:
    """The file system has so many bytes and inodes left; `files` in all, 0 if it does not count."""
    found = SimpleNamespace(f_bavail=free, f_frsize=1, f_favail=inodes, f_files=files)
    monkeypatch.setattr(os, "statvfs", lambda _: found)


@pytest.mark.parametrize(
    ("free", "inodes", "files", "cause", "told"),
    [
        (0, 500, 1000, "disk full", "No space left on device"),
        (0, 0, 1000, "inodes used up", "no inode for another file (ask: df -i '/runs/my run')"),
        (9 * GB, 0, 1000, "inodes used up", "no inode for another file"),
        (0, 0, 0, "disk full", "No space left on device"),  # Btrfs does not count inodes
        (9 * GB, 0, 0, "disk full", "although 9.0 GB are free: the folder may have a quota"),
    ],
)
def test_a_full_file_system(
    free: int, inodes: int, files: int, cause: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk(monkeypatch, free=free, inodes=inodes, files=files)
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    short = name_shortage(error, Path("/runs/my run"))
    assert (short.cause, told in short.told) == (cause, True)
    assert ("free space" in short.remedy) == (cause == "disk full")


@pytest.mark.parametrize(
    ("number", "cause", "remedy"),
    [
        (errno.EDQUOT, "quota used up", "remove something of yours"),
        (errno.EFBIG, "file size limit", "raise it (ulimit -f)"),
    ],
)
def test_a_limit_of_this_user(number: int, cause: str, remedy: str) -> None:
    short = name_shortage(OSError(number, os.strerror(number)), Path("/"))
    assert (short.cause, short.told.startswith(os.strerror(number))) == (cause, True)
    assert remedy in short.remedy


def test_a_file_system_that_cannot_be_asked_is_full() -> None:
    short = name_shortage(OSError(errno.ENOSPC, "No space"), Path("/nowhere"))
    assert (short.cause, short.told) == ("disk full", "No space")


def test_the_stop_flag_says_what_has_run_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = new_directory(tmp_path)
    disk(monkeypatch, free=GB, inodes=0)
    stop_full(directory, OSError(errno.ENOSPC, "No space left on device"))
    stop = read_stop(directory)
    assert stop
    assert (stop.cause, "no inode" in stop.text, "free space" in stop.text) == (
        "inodes used up",
        True,
        False,
    )
