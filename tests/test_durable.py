"""A name appears at once, with all its bytes, for one of the processes that want it."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchgen import durable


def at_once(count: int, action: Callable[[int], object]) -> list[object]:
    """What `action` returns in each of `count` threads that begin together."""
    barrier = threading.Barrier(count)

    def go(number: int) -> object:
        barrier.wait()
        return action(number)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(go, range(count)))


def test_of_many_threads_that_create_a_file_one_does_and_its_bytes_stay(tmp_path: Path) -> None:
    path = tmp_path / "file"
    won = at_once(8, lambda number: durable.create(path, b"%d" % number))
    assert won.count(True) == 1
    assert path.read_bytes() == b"%d" % won.index(True)
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_of_a_file_that_is_replaced_reads_the_old_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "file"
    durable.replace(path, b"first")
    with path.open("rb") as reader:
        durable.replace(path, b"second")
        assert reader.read() == b"first"
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_never_replaces_and_knows_its_own_file(tmp_path: Path) -> None:
    mine, other, target = tmp_path / "mine", tmp_path / "other", tmp_path / "target"
    durable.write(mine, b"mine")
    durable.write(other, b"other")
    assert [durable.link(source, target) for source in (mine, other, mine)] == [True, False, True]
    assert target.read_bytes() == b"mine"


def test_a_name_is_synced_also_when_another_process_made_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other process may have died before the name was on the disk."""
    synced: list[Path] = []
    durable.write(tmp_path / "mine", b"")
    os.link(tmp_path / "mine", tmp_path / "target")
    monkeypatch.setattr(durable, "sync_folder", synced.append)
    assert durable.link(tmp_path / "mine", tmp_path / "target")
    assert synced == [tmp_path]


def test_bytes_are_synced_before_the_name_that_readers_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, link = os.fsync, os.link
    monkeypatch.setattr(os, "fsync", lambda file: (order.append("sync"), fsync(file)))
    monkeypatch.setattr(
        os, "link", lambda source, target: (order.append("link"), link(source, target))
    )
    durable.create(tmp_path / "file", b"data")
    assert order == ["sync", "link", "sync"]


def test_a_failed_write_leaves_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_file: object, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable, "append", full)
    for make in (durable.create, durable.replace):
        with pytest.raises(OSError, match="No space left"):
            make(tmp_path / "file", b"data")
    assert list(tmp_path.iterdir()) == []


def test_an_append_that_the_system_cuts_short_goes_on(tmp_path: Path) -> None:
    class Slow:
        """Writes at most three bytes at a time, as a pipe or a signal may."""

        written = b""

        def write(self, data: memoryview) -> int:
            self.written += bytes(data[:3])
            return len(data[:3])

    file = Slow()
    durable.append(file, b"ten bytes.")
    assert file.written == b"ten bytes."


def test_of_many_threads_that_use_the_reserve_the_data_of_the_first_counts(tmp_path: Path) -> None:
    reserve, flag = tmp_path / "reserve", tmp_path / "flag"
    durable.write(reserve, bytes(1000))
    at_once(8, lambda number: durable.create_from(reserve, flag, b"%d" % number))
    assert flag.read_bytes() in {b"%d" % number for number in range(8)}
    assert list(tmp_path.iterdir()) == [flag]


@pytest.mark.parametrize(
    ("number", "full"),
    [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EFBIG, True), (errno.EIO, False)],
)
def test_a_full_disk_is_told_from_a_broken_one(number: int, full: bool) -> None:
    assert durable.is_full(OSError(number, "")) == full
    assert not durable.is_full(ValueError(number))


def test_removing_a_name_that_is_gone_is_no_error(tmp_path: Path) -> None:
    durable.remove(tmp_path / "file")


def test_a_file_made_from_parts_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def parts(*, until: int) -> Iterator[bytes]:
        for number in range(3):
            assert not path.exists()
            if number == until:
                raise OSError("the disk is full")
            yield b"%d" % number

    with pytest.raises(OSError, match="the disk is full"):
        durable.create(path, parts(until=2))
    assert list(tmp_path.iterdir()) == []
    assert durable.create(path, parts(until=3))
    assert path.read_bytes() == b"012"
    assert not durable.create(path, [b"another"])
