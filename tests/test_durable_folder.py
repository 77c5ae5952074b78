"""A folder is tried before correctness rests on it: its links, its renames, its syncs."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from batchgen.durable_folder import ENDINGS, try_folder


def test_a_folder_that_does_everything_counts_links_and_keeps_nothing(tmp_path: Path) -> None:
    assert try_folder(tmp_path) == 2
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_probe_left_is_no_hindrance(tmp_path: Path) -> None:
    for ending in ENDINGS:
        (tmp_path / f"probe{ending}").write_text("left")
    assert try_folder(tmp_path) == 2
    assert list(tmp_path.iterdir()) == []


def copies(source: Path, target: Path) -> None:
    """What a file system without links may do instead, as some of FUSE do."""
    if target.exists():
        raise FileExistsError(errno.EEXIST, "File exists")
    shutil.copy(source, target)


def replaces(source: Path, target: Path) -> None:
    """What NFS must not do."""
    target.unlink(missing_ok=True)
    REAL(source, target)


def refuses(*_: object) -> None:
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")


REAL = os.link
FAULTS: dict[str, tuple[Callable[..., None], str]] = {
    "copies": (copies, "a hard link is a copy"),
    "replaces": (replaces, "takes the place of another file"),
    "refuses": (refuses, "Operation not supported"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_links_that_are_none_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, told = FAULTS[name]
    monkeypatch.setattr("os.link", link)
    with pytest.raises(OSError, match=told):
        try_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []
