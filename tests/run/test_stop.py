"""The stop flag keeps its first cause, can be cleared, and can be set on a full disk."""

import errno
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchgen import durable
from batchgen.errors import OutputError
from batchgen.run.directory import RunDirectory
from batchgen.run.stop import ask_to_stop, clear_stop, read_stop
from tests.support.specimens import new_directory


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return new_directory(tmp_path)


def test_the_first_cause_to_stop_stays(directory: RunDirectory) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: ask_to_stop(directory, "user", f"caller {n}"), range(8)))
    first = read_stop(directory)
    ask_to_stop(directory, "failure budget", "too many")
    assert first is not None
    assert read_stop(directory) == first
    assert (first.cause, first.text[:7]) == ("user", "caller ")


def test_a_cleared_stop_can_be_set_again(directory: RunDirectory) -> None:
    assert read_stop(directory) is None
    ask_to_stop(directory, "user", "one")
    clear_stop(directory)
    assert read_stop(directory) is None
    ask_to_stop(directory, "time limit", "two")
    assert read_stop(directory) is not None
    assert json.loads(directory.stop.read_bytes())["cause"] == "time limit"


def test_a_run_can_be_asked_to_stop_on_a_full_disk(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flag is written into the bytes of the reserve, a file kept for this."""

    def full(_path: Path, _data: bytes, _mode: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable, "write", full)
    for text in ("first", "second"):
        ask_to_stop(directory, "disk full", text)
    stop = read_stop(directory)
    assert stop is not None
    assert (stop.cause, stop.text) == ("disk full", "first")


def test_another_error_of_the_disk_is_raised(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_path: Path, _data: bytes, _mode: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(durable, "write", broken)
    with pytest.raises(OSError, match="Input/output"):
        ask_to_stop(directory, "user", "")


def test_a_folder_without_a_plan_is_no_run(directory: RunDirectory) -> None:
    with pytest.raises(OutputError, match=r"not a run directory.*batchgen submit MANIFEST --out"):
        RunDirectory.open(directory.root)
