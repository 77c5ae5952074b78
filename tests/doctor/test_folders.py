"""The folder of runs and the compile cache are tried for real, and nothing is left in them."""

import errno
import os
import stat
from pathlib import Path

import pytest

from batchgen.doctor.folders import compile_cache, existing, free_space, run_folder
from batchgen.settings import load_job
from tests.support.specimens import planned

# A file system in which nobody can make a file.
NOWHERE = Path("/proc/sys")


def test_a_good_folder_is_told_and_left_as_it_was(tmp_path: Path) -> None:
    (told,) = run_folder(tmp_path / "runs" / "new")
    assert (told.name, told.state) == ("run_folder", "ok")
    assert told.found.startswith(f"{tmp_path} (")
    assert " links, renames and syncs, in " in told.found
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_fails() -> None:
    (told,) = run_folder(NOWHERE)
    assert (told.state, told.found.partition(":")[0]) == ("failed", str(NOWHERE))
    assert "writable folder with --out" in told.remedy


def test_a_file_system_without_hard_links_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)
    (told,) = run_folder(tmp_path)
    assert (told.state, told.found) == ("failed", f"{tmp_path}: Operation not permitted")
    assert "NFS and Lustre have hard links" in told.remedy
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_somebody_else_fails(tmp_path: Path) -> None:
    run = planned(tmp_path)
    run.directory.root.chmod(0o777)
    (told,) = run_folder(run.directory.root)
    assert told.state == "failed"
    assert "can be written by others (mode 777)" in told.found


def test_little_space_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (enough,) = free_space(tmp_path)
    assert "free" in enough.found
    # The kernel's answer, with another number of free blocks, then of free files.
    real = os.statvfs(tmp_path)
    for place, told in ((4, " free"), (7, "only 0 more files")):
        fields = list(real)[:10]
        fields[place] = 0
        monkeypatch.setattr("os.statvfs", lambda _, fields=fields: os.statvfs_result(fields))
        (scarce,) = free_space(tmp_path / "runs")
        if place == 4 or real.f_files:
            assert scarce.state == "warning"
            assert told in scarce.found


def cache(folder: Path, *, needed: bool = True) -> tuple[str, str, str]:
    job = load_job(None, [f"run.compile_cache={folder}", "compile.mode=default"])
    (told,) = compile_cache(job, needed=needed)
    return told.state, told.found, told.remedy


def test_a_compile_cache_of_ones_own_is_good(tmp_path: Path) -> None:
    assert cache(tmp_path / "new")[:2] == (
        "ok",
        f"{tmp_path}/new, to be made in {tmp_path}: writable, yours",
    )
    assert list(tmp_path.iterdir()) == []


def test_a_compile_cache_that_others_may_write_fails_with_the_command(tmp_path: Path) -> None:
    """Compiled code runs with the user's rights."""
    tmp_path.chmod(0o770)
    state, found, remedy = cache(tmp_path)
    assert (state, remedy) == ("failed", f"chmod go-w {tmp_path}")
    assert found == f"{tmp_path}: can be written by others (mode 770)"
    assert cache(tmp_path, needed=False)[0] == "warning"


def test_a_compile_cache_of_somebody_else_fails(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can make a folder of somebody else")
    os.chown(tmp_path, 12345, -1)
    state, found, remedy = cache(tmp_path)
    assert (state, found) == ("failed", f"{tmp_path}: belongs to user 12345, not to you (0)")
    assert "--set run.compile_cache=FOLDER" in remedy


def test_a_compile_cache_that_cannot_be_written_fails() -> None:
    assert cache(NOWHERE)[0] == "failed"


def test_the_innermost_folder_that_exists_is_found(tmp_path: Path) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path
    (tmp_path / "file").touch()
    assert existing(tmp_path / "file" / "b") == tmp_path
    assert stat.S_ISDIR(existing(Path("~")).stat().st_mode)
