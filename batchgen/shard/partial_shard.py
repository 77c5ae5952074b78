"""A shard being written by one attempt: samples (tar), records (JSON lines), and the journal that vouches for them.

The three files only grow, and belong to one attempt for ever. The journal's lines, each with its own checksum:

    begin at=8 count=8     pictures 8…15 of the shard, in plan order, are being made
    end at=16 …            pictures before 16 are in tar and records up to these offsets; checksum of what was added
    void at=8              whatever was written at or after picture 8 does not count (a sick device made it)
    verdict at=8 count=4   this process ends, because these pictures did not fit together, or an exception was raised while they were made

`end` is written after samples and records are synced. Another attempt copies the longest prefix whose checksums
hold and goes on behind it, so a kill costs the groups in flight and an owner wrongly declared dead harms nobody.
A begin without its end, in the journal of an attempt that was not released, is a death inside that group; with a verdict nobody need
guess which, and why.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from batchgen import durable
from batchgen.run import RunDirectory
from batchgen.shard.journal import Entry, ends_that_count, read_journal
from batchgen.shard.records import Record, parse


class PartialShard:
    """The files of one attempt, open for appending; created by copying a prefix of earlier attempts.

    `position` is how many pictures of the shard are safely written, `failed` how many of those failed.
    """

    def __init__(
        self, directory: RunDirectory, shard: int, attempt: int, earlier: Sequence[int]
    ) -> None:
        self._directory, self.shard, self.attempt = directory, shard, attempt
        source, ends = _longest_prefix(directory, shard, earlier)
        self._tar = self._new("tar")
        self._records = self._new("records")
        self._journal = self._new("journal")
        self._end = Entry("end", 0)
        self._turn = (
            threading.Lock()
        )  # the main thread begins a group while the writing thread ends the one before
        if ends:
            self._copy(source, ends)
        durable.sync_folder(self.path("journal").parent)

    def path(self, kind: str) -> Path:
        """A file of this attempt."""
        return self._directory.partial(self.shard, self.attempt, kind)

    @property
    def position(self) -> int:
        """Pictures safely written, in plan order."""
        return self._end.at

    @property
    def failed(self) -> int:
        """Failures among them."""
        return self._end.failed

    def begin(self, at: int, count: int) -> None:
        """Say that pictures at…at+count are being made, before they are: a death is then theirs."""
        self._say(Entry("begin", at, count))

    def end(self, samples: bytes, records: Sequence[Record]) -> None:
        """Append the next pictures: their tar members and their records, in plan order. On return they survive anything."""
        failed = sum(record.outcome == "failed" for record in records)
        lines = b"".join(record.line() for record in records)
        self._grow(samples, lines, self._end.at + len(records), self._end.failed + failed)

    def void(self, at: int) -> None:
        """Nothing at or after picture `at` counts any more."""
        self._say(Entry("void", at))

    def judge(self, at: int, count: int, size: tuple[int, int], cause: str, why: str) -> None:
        """Say why this process ends: these pictures, together, cannot be made by it. Any thread may.

        :param size: their width and height in px.
        """
        self._say(Entry("verdict", at, count, width=size[0], height=size[1], cause=cause, why=why))

    def records(self) -> list[Record]:
        """All records so far."""
        path = self.path("records")
        return parse(path.read_bytes()[: self._end.records], str(path))

    def seal(self) -> Path:
        """End the tar archive and sync it; nothing may be appended after."""
        size = self._end.tar + 1024  # two zero blocks, then to a whole record of 20 blocks
        durable.append(self._tar, bytes(1024 + -size % 10240))
        durable.sync(self._tar)
        return self.path("tar")

    def close(self) -> None:
        """Close the files; what was ended stays."""
        for file in (self._tar, self._records, self._journal):
            file.close()

    def _new(self, kind: str) -> BinaryIO:
        return self.path(kind).open("xb", buffering=0)

    def _grow(self, samples: bytes, lines: bytes, at: int, failed: int) -> None:
        durable.append(self._tar, samples)
        durable.append(self._records, lines)
        durable.sync(self._tar)
        durable.sync(self._records)
        tar, records = self._end.tar + len(samples), self._end.records + len(lines)
        end = Entry(
            "end", at, tar=tar, records=records, failed=failed, digest=_digest(samples, lines)
        )
        self._say(end)
        self._end = end

    def _copy(self, source: int, ends: Sequence[Entry]) -> None:
        for _, samples, lines in _chunks(self._directory, self.shard, source, ends):
            durable.append(self._tar, samples)
            durable.append(self._records, lines)
        durable.sync(self._tar)
        durable.sync(self._records)
        self._say(*ends)
        self._end = ends[-1]

    def _say(self, *entries: Entry) -> None:
        with self._turn:
            durable.append(self._journal, b"".join(entry.line() for entry in entries))
            durable.sync(self._journal)


def _digest(samples: bytes, lines: bytes) -> str:
    return hashlib.blake2b(
        hashlib.blake2b(samples).digest() + hashlib.blake2b(lines).digest(), digest_size=16
    ).hexdigest()


def _longest_prefix(
    directory: RunDirectory, shard: int, attempts: Sequence[int]
) -> tuple[int, list[Entry]]:
    """The attempt with the most pictures that count, and its good `end` entries; (0, []) where none has any."""
    best: tuple[int, list[Entry]] = (0, [])
    for attempt in attempts:
        ends = _good_ends(directory, shard, attempt)
        if ends and (not best[1] or ends[-1].at > best[1][-1].at):
            best = (attempt, ends)
    return best


def _good_ends(directory: RunDirectory, shard: int, attempt: int) -> list[Entry]:
    """An attempt's `end` entries as far as every checksum holds and nothing is void."""
    ends = ends_that_count(read_journal(directory.partial(shard, attempt, "journal")))
    good = []
    try:
        for end, samples, lines in _chunks(directory, shard, attempt, ends):
            if _digest(samples, lines) != end.digest:
                break
            good.append(end)
    except (
        FileNotFoundError
    ):  # killed before its files were made, or swept because the shard is published
        return []
    return good


def _chunks(
    directory: RunDirectory, shard: int, attempt: int, ends: Sequence[Entry]
) -> Iterator[tuple[Entry, bytes, bytes]]:
    """What the tar and the records of an attempt grew by at each `end`."""
    tar_at = records_at = 0
    with (
        directory.partial(shard, attempt, "tar").open("rb") as tar,
        directory.partial(shard, attempt, "records").open("rb") as records,
    ):
        for end in ends:
            yield end, tar.read(end.tar - tar_at), records.read(end.records - records_at)
            tar_at, records_at = end.tar, end.records
