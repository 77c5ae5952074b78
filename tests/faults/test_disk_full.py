"""The disk is full: the run stops and says so, and `resume` finishes it once there is space."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchgen.run.directory import RunDirectory
from batchgen.run.stop import ask_to_stop, clear_stop, read_stop
from tests.support.rehearsal import Answer, ask, faulty, records, rehearse, status

pytestmark = pytest.mark.slow
PROMPTS = [f"a cat {n}" for n in range(60)]
SIZE = {"sampling__width": 256, "sampling__height": 256, "shards__pictures": 20}


def mount(folder: Path, *options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "none", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 900 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount(folder, "size=900k"):
        pytest.skip("not allowed to mount")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root need not")
def test_as_a_user_the_small_disk_is_mounted_in_a_namespace() -> None:
    """The next test runs once more, as the root of a user namespace."""
    test = f"{__file__}::test_a_full_disk_stops_the_run_and_resume_finishes_it"
    command = ["unshare", "-rm", sys.executable, "-m", "pytest", test]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode and "unshare: " in told.stderr:
        pytest.skip("no user namespaces here")
    assert told.returncode == 0, told.stdout


def test_a_full_disk_stops_the_run_and_resume_finishes_it(small_disk: Path, tmp_path: Path) -> None:
    run = small_disk / "run"
    told = f"disk full: No space left on device; free space below {run}"
    check_stopped(run, rehearse(run, PROMPTS, run__workers=2, **SIZE), told, "free space")
    disk = os.statvfs(small_disk)
    (small_disk / "more").write_bytes(bytes(disk.f_bavail * disk.f_bsize))
    again = ask("resume", run)
    assert (again.code, "No space left on device" in again.err + again.out) == (3, True)
    assert status(run)["state"] == "stopped"
    assert mount(small_disk, "remount", "size=20m")
    check_finished(run, ask("resume", run))
    check_same(run, tmp_path)


def test_the_stop_flag_fits_on_a_disk_without_a_single_free_byte(small_disk: Path) -> None:
    directory = RunDirectory(small_disk / "run")
    directory.make_folders(1)
    clear_stop(directory)
    with contextlib.suppress(OSError), (small_disk / "more").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(512))
    ask_to_stop(directory, "disk full", "the first")
    ask_to_stop(directory, "disk full", "the second")
    assert (stop := read_stop(directory))
    assert stop.text == "the first"


def test_a_file_size_limit_stops_the_run_and_resume_finishes_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    answer = rehearse(run, PROMPTS, faults={"FILE_BYTES": "200000"}, **SIZE)
    told = "file size limit: File too large: files may not grow larger here; raise it (ulimit -f)"
    check_stopped(run, answer, told, "raise the limit")
    with faulty(FILE_BYTES="200000"):
        for _ in range(3):  # a good picture is not blamed, however often the disk is full
            assert ask("resume", run).code == 3
    check_finished(run, ask("resume", run))


def test_used_up_inodes_are_told_as_such_and_resume_finishes_it(small_disk: Path) -> None:
    """There are 50 MB, but the file system holds no more files."""
    assert mount(small_disk, "remount", "size=50m", "nr_inodes=45")
    run = small_disk / "run"
    answer = rehearse(run, PROMPTS, run__workers=2, **SIZE)
    why = f"the file system has no inode for another file (ask: df -i {run})"
    told = f"inodes used up: No space left on device: {why}; remove files there, small ones too"
    check_stopped(run, answer, told, "remove files")
    for _ in range(3):  # a good picture is not condemned, however often nothing can be written
        again = ask("resume", run)
        assert (again.code, "remove files there" in again.out + again.err) == (3, True)
    assert mount(small_disk, "remount", "size=50m", "nr_inodes=10000")
    check_finished(run, ask("resume", run))


def check_stopped(run: Path, answer: Answer, told: str, remedy: str) -> None:
    assert answer.code == 3, answer
    assert f"stopped: {told}" in answer.out
    assert f"next: {remedy}, then: batchgen resume {run}" in answer.out
    assert ask("verify", "--deep", run).code == 0, "what is published is whole"
    assert status(run)["failed"] == 0


def check_finished(run: Path, answer: Answer) -> None:
    assert answer.code == 0, answer
    assert "60 ok, 0 failed, 0 pending" in answer.out
    assert ask("verify", "--deep", run).code == 0
    assert {(record["outcome"], record["path"]) for record in records(run)} == {("ok", "normal")}


def check_same(run: Path, elsewhere: Path) -> None:
    """An interrupted run's tars are those of an undisturbed one, byte for byte."""
    (elsewhere / "run-prompts.parquet").write_bytes(
        run.with_name("run-prompts.parquet").read_bytes()
    )
    assert rehearse(elsewhere / "run", PROMPTS, run__workers=2, **SIZE).code == 0
    for tar in (run / "data").iterdir():
        assert tar.read_bytes() == (elsewhere / "run" / "data" / tar.name).read_bytes()
