"""A kill costs the groups in flight: what the journal has ended is copied, the rest made again."""

import tarfile
import threading
import time
import zlib
from pathlib import Path
from typing import BinaryIO

import pytest

from batchgen import durable
from batchgen.run.directory import RunDirectory
from batchgen.settings.job import Output
from batchgen.shard.in_progress import furthest, unpublished_records, unpublished_verdicts
from batchgen.shard.journal import Entry, ends_that_count, in_flight, read_journal
from batchgen.shard.partial_shard import PartialShard
from batchgen.worker.samples import encode_image, sample
from tests.support.specimens import failure, new_directory, pictures, pixels, record, write_group


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return new_directory(tmp_path)


def attempt(
    directory: RunDirectory, number: int, groups: int, *, earlier: int | None = None, count: int = 2
) -> PartialShard:
    """An attempt that wrote so many groups of two and was killed."""
    attempts = range(1, number if earlier is None else earlier + 1)
    partial = PartialShard(directory, 0, number, attempts)
    for _ in range(groups):
        write_group(partial, count)
    partial.close()
    return partial


def files(directory: RunDirectory, number: int) -> tuple[bytes, bytes]:
    return tuple(directory.partial(0, number, kind).read_bytes() for kind in ("tar", "records"))


def test_a_journal_torn_anywhere_is_read_up_to_the_tear(directory: RunDirectory) -> None:
    attempt(directory, 1, 2)
    path = directory.partial(0, 1, "journal")
    whole, entries = path.read_bytes(), read_journal(path)
    assert [entry.do for entry in entries] == ["begin", "end", "begin", "end"]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        assert read_journal(path) == entries[: whole[:length].count(b"\n")]


def test_a_journal_damaged_anywhere_never_says_anything_else(directory: RunDirectory) -> None:
    attempt(directory, 1, 2)
    path = directory.partial(0, 1, "journal")
    whole, entries = path.read_bytes(), read_journal(path)
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert read_journal(path) == entries[: whole[:place].count(b"\n")]


def test_a_journal_followed_by_zeros_is_read_up_to_them(directory: RunDirectory) -> None:
    """A file system may leave a file so after a power cut."""
    attempt(directory, 1, 2)
    path = directory.partial(0, 1, "journal")
    entries = read_journal(path)
    path.write_bytes(path.read_bytes() + bytes(512))
    assert read_journal(path) == entries


def test_a_journal_from_before_there_were_verdicts_is_read(directory: RunDirectory) -> None:
    fields = b'"tar": 34, "records": 56, "failed": 1, "digest": "ab"'
    text = b'{"do": "end", "at": 2, "count": 0, %s}' % fields
    directory.partial(0, 1, "journal").write_bytes(b"%s %08x\n" % (text, zlib.crc32(text)))
    expected = Entry("end", 2, tar=34, records=56, failed=1, digest="ab")
    assert read_journal(directory.partial(0, 1, "journal")) == [expected]


def test_a_verdict_is_read_back_and_is_neither_progress_nor_copied(directory: RunDirectory) -> None:
    partial = PartialShard(directory, 0, 1, [])
    write_group(partial, 2)
    partial.begin(2, 4)
    why = "rank 1 of 2 on h\u00f6st: OutOfMemory: 8 GB"
    partial.judge(2, 4, (16, 32), "out of memory", why)
    partial.close()
    said = read_journal(directory.partial(0, 1, "journal"))
    assert list(unpublished_verdicts(directory)) == said[-1:]
    expected = Entry("verdict", 2, 4, width=16, height=32, cause="out of memory", why=why)
    assert said[-1] == expected
    assert [entry.at for entry in in_flight(said)] == [2]
    assert PartialShard(directory, 0, 2, [1]).position == 2
    assert [entry.do for entry in read_journal(directory.partial(0, 2, "journal"))] == ["end"]


def test_no_journal_says_nothing(directory: RunDirectory) -> None:
    assert read_journal(directory.partial(0, 1, "journal")) == []


def test_the_next_attempt_copies_what_was_ended_byte_for_byte(directory: RunDirectory) -> None:
    attempt(directory, 1, 3)
    tar, records = files(directory, 1)
    for kind in ("tar", "records"):
        with directory.partial(0, 1, kind).open("ab") as file:
            file.write(b"half a group that was never ended")
    partial = PartialShard(directory, 0, 2, [1])
    assert (partial.position, partial.failed) == (6, 0)
    assert files(directory, 2) == (tar, records)
    assert partial.records() == [record(key) for key in range(6)]


def test_an_attempt_goes_on_as_if_it_had_never_been_interrupted(directory: RunDirectory) -> None:
    attempt(directory, 1, 2)
    attempt(directory, 2, 1)
    attempt(directory, 3, 1)
    whole = new_directory(directory.root / "other")
    attempt(whole, 1, 4)
    assert files(directory, 3) == files(whole, 1)
    entries = read_journal(directory.partial(0, 3, "journal"))
    begun = [entry.at for entry in entries if entry.do == "begin"]
    assert begun == [6], "deaths of others must not be blamed on this attempt"


@pytest.mark.parametrize("kind", ["tar", "records"])
@pytest.mark.parametrize("group", [0, 1, 2])
@pytest.mark.parametrize("damage", ["flip", "cut", "zeros"])
def test_damaged_bytes_end_the_prefix_that_counts(
    kind: str, group: int, damage: str, directory: RunDirectory
) -> None:
    attempt(directory, 1, 3)
    path = directory.partial(0, 1, kind)
    data = bytearray(path.read_bytes())
    entries = read_journal(directory.partial(0, 1, "journal"))
    ends = [getattr(entry, kind) for entry in entries if entry.do == "end"]
    place = ends[group] - 1
    if damage == "flip":
        data[place] ^= 1
    else:
        data[place:] = b"" if damage == "cut" else bytes(len(data) - place)
    path.write_bytes(data)
    assert PartialShard(directory, 0, 2, [1]).position == 2 * group


@pytest.mark.parametrize("kind", ["tar", "records", "journal"])
def test_an_attempt_that_lost_a_file_counts_for_nothing(kind: str, directory: RunDirectory) -> None:
    attempt(directory, 1, 3)
    directory.partial(0, 1, kind).unlink()
    assert PartialShard(directory, 0, 2, [1]).position == 0


def test_the_longest_prefix_of_all_attempts_is_copied(directory: RunDirectory) -> None:
    attempt(directory, 1, 2, earlier=0)
    attempt(directory, 2, 4, earlier=0)
    attempt(directory, 3, 3, earlier=0)
    assert PartialShard(directory, 0, 4, [1, 2, 3]).position == 8


def test_a_longer_attempt_whose_bytes_are_bad_loses_to_a_shorter_good_one(
    directory: RunDirectory,
) -> None:
    attempt(directory, 1, 2, earlier=0)
    attempt(directory, 2, 4, earlier=0)
    directory.partial(0, 2, "tar").write_bytes(b"")
    assert PartialShard(directory, 0, 3, [1, 2]).position == 4


@pytest.mark.parametrize(("void", "position"), [(0, 0), (2, 2), (3, 2), (4, 4), (6, 6)])
def test_what_a_sick_device_made_is_not_copied(
    void: int, position: int, directory: RunDirectory
) -> None:
    partial = PartialShard(directory, 0, 1, [])
    for _ in range(3):
        write_group(partial, 2)
    partial.void(void)
    partial.close()
    assert PartialShard(directory, 0, 2, [1]).position == position


def test_failures_are_counted_and_carried_over(directory: RunDirectory) -> None:
    partial = PartialShard(directory, 0, 1, [])
    write_group(partial, 2, failed=1)
    write_group(partial, 2, failed=2)
    assert (partial.position, partial.failed) == (4, 3)
    again = PartialShard(directory, 0, 2, [1])
    assert (again.position, again.failed) == (4, 3)
    assert [one.outcome for one in again.records()] == ["failed", "ok", "failed", "failed"]


def test_records_that_were_never_ended_are_not_read(directory: RunDirectory) -> None:
    """Their group was being written when the disk was full."""
    partial = PartialShard(directory, 0, 1, [])
    write_group(partial, 2)
    with partial.path("records").open("ab") as file:
        file.write(record(2).line() + b"half a li")
    assert [one.key for one in partial.records()] == [0, 1]
    assert [one.key for one in unpublished_records(directory)] == [0, 1]


def test_an_attempt_never_reuses_its_files(directory: RunDirectory) -> None:
    attempt(directory, 1, 1)
    with pytest.raises(FileExistsError):
        PartialShard(directory, 0, 1, [])
    assert PartialShard(directory, 0, 2, [1]).position == 2


BEGIN, END = (lambda at, count=2: Entry("begin", at, count)), (lambda at: Entry("end", at))


@pytest.mark.parametrize(
    ("journal", "open_groups"),
    [
        ([], []),
        ([BEGIN(0)], [0]),
        ([BEGIN(0), BEGIN(2)], [0, 2]),
        ([BEGIN(0), BEGIN(2), END(2)], [2]),
        ([BEGIN(0), END(2), BEGIN(2), END(4)], []),
        ([END(2), END(4), BEGIN(4)], [4]),  # after copying
        ([BEGIN(0), BEGIN(2), END(2), BEGIN(4)], [2, 4]),
        ([BEGIN(0, 1), END(1), BEGIN(1, 1)], [1]),
    ],
)
def test_groups_in_flight_are_those_begun_and_not_ended(
    journal: list[Entry], open_groups: list[int]
) -> None:
    assert [entry.at for entry in in_flight(journal)] == open_groups


def test_ends_behind_the_earliest_void_do_not_count() -> None:
    for voids in ([2, 4], [4, 2]):
        journal = [END(2), END(4), END(6), *(Entry("void", at) for at in voids)]
        assert [entry.at for entry in ends_that_count(journal)] == [2]


def test_progress_counts_the_furthest_attempt_of_each_shard_that_is_not_published(
    directory: RunDirectory,
) -> None:
    attempt(directory, 1, 3, earlier=0)
    attempt(directory, 2, 1, earlier=0)
    other = PartialShard(directory, 1, 1, [])
    write_group(other, 2, failed=1)
    found = furthest(directory, set()).items()
    assert {shard: (number, end.at) for shard, (number, end) in found} == {0: (1, 6), 1: (1, 2)}
    assert set(furthest(directory, {0})) == {1}
    assert [one.key for one in unpublished_records(directory)] == [0, 1, 2, 3, 4, 5, 0, 1]
    directory.partial(0, 1, "records").unlink()
    assert [one.outcome for one in unpublished_records(directory)] == ["failed", "ok"]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_sealed_tar_is_a_whole_archive(count: int, directory: RunDirectory) -> None:
    """Its length is a multiple of tar's record of 10,240 bytes, and tarfile reads it to its end."""
    partial = PartialShard(directory, 0, 1, [])
    for one in pictures(count):
        image = encode_image(pixels(one.key), Output(format="png"))
        partial.end(sample(one, image, Output(format="png")), [record(of=one)])
    path = partial.seal()
    assert path.stat().st_size % 10240 == 0
    kinds = ("png", "txt", "json")
    with tarfile.open(path) as tar:
        assert tar.getnames() == [f"{key:09d}.{kind}" for key in range(count) for kind in kinds]
    assert path.read_bytes()[-1024:] == bytes(1024)


def test_a_begin_and_an_end_from_two_threads_never_mix(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The main thread begins a group while the writing thread ends the one before.

    The system writes a few bytes at a time.
    """

    def few_at_a_time(file: BinaryIO, data: bytes) -> None:
        for at in range(0, len(data), 9):
            file.write(data[at : at + 9])
            time.sleep(0)

    monkeypatch.setattr(durable, "append", few_at_a_time)
    partial = PartialShard(directory, 0, 1, [])
    begin = threading.Thread(target=lambda: [partial.begin(at, 1) for at in range(20)])
    begin.start()
    for key in range(20):
        partial.end(b"x", [failure(key)])
    begin.join()
    found = sorted((entry.do, entry.at) for entry in read_journal(partial.path("journal")))
    assert found == [("begin", n) for n in range(20)] + [("end", n + 1) for n in range(20)]
