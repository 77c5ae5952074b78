"""A shard being written by one attempt: samples (tar), records (JSON lines) and the journal.

The three files only grow, and they belong to one attempt for ever. What the journal has ended is
safe; see journal.py for its lines. The next attempt copies the longest prefix whose checksums
hold and goes on behind it. So a kill costs the groups in flight, and an owner that was wrongly
declared dead harms nobody.

A `begin` without its `end`, in the journal of an attempt that was not released, is a death while
this group was in flight.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any, BinaryIO

from batchgen import durable
from batchgen.regular_file import open_regular, read_regular
from batchgen.run import RunDirectory
from batchgen.shard.journal import Entry, ends_that_count, read_journal
from batchgen.shard.loss import Loss
from batchgen.shard.records import Record, parse


class PartialShard:
    """The files of one attempt, open for appending; they begin with what earlier attempts wrote."""

    def __init__(
        self,
        directory: RunDirectory,
        shard: int,
        attempt: int,
        earlier: Sequence[int],
        generation: int = 0,
    ) -> None:
        self._directory, self.shard, self.attempt = directory, shard, attempt
        self.generation = generation
        source, ends = _longest_prefix(directory, shard, earlier)
        self._tar = self._new("tar")
        self._records = self._new("records")
        self._journal = self._new("journal")
        self._end = Entry("end", 0)
        # The main thread begins a group while the writing thread ends the one before.
        self._journal_lock = threading.Lock()
        if ends:
            for _, samples, lines in _chunks(directory, shard, source, ends):
                self._append(samples, lines)
            self._end_with(ends)
        durable.sync_folder(self.path("journal").parent)

    def path(self, kind: str) -> Path:
        """A file of this attempt."""
        return self._directory.partial(self.shard, self.attempt, kind)

    @property
    def position(self) -> int:
        """How many pictures are safely written, in plan order."""
        return self._end.at

    @property
    def failed(self) -> int:
        """How many of the pictures that are safely written have failed."""
        return self._end.failed

    def begin(self, at: int, count: int) -> None:
        """Say that the pictures at…at+count are being made, so a death is known to be theirs."""
        self._say(Entry("begin", at, count))

    def end(self, samples: bytes, records: Sequence[Record]) -> None:
        """Append the next pictures. On return they survive anything.

        :param samples: their tar members, in plan order.
        :param records: their records, in plan order.
        """
        lines = b"".join(record.line() for record in records)
        self._append(samples, lines)
        end = Entry(
            "end",
            at=self._end.at + len(records),
            tar=self._end.tar + len(samples),
            records=self._end.records + len(lines),
            failed=self._end.failed + sum(record.outcome == "failed" for record in records),
            digest=_digest(samples, lines),
            loss=_grown(self._end.loss, records),
        )
        self._end_with([end])

    def void(self, at: int) -> None:
        """Say that nothing written at or after picture `at` counts."""
        self._say(Entry("void", at))

    def judge(self, at: int, count: int, size: tuple[int, int], cause: str, why: str) -> None:
        """Say that this process ends because of these pictures. Any thread may call this.

        :param size: their width and height in px.
        """
        self._say(Entry("verdict", at, count, width=size[0], height=size[1], cause=cause, why=why))

    def records(self) -> list[Record]:
        """All records that are safely written."""
        path = self.path("records")
        return parse(read_regular(path)[: self._end.records], str(path))

    def seal(self) -> Path:
        """End the tar archive and sync it; nothing may be appended after."""
        size = self._end.tar + 1024  # two zero blocks, then zeros up to a whole record of 20 blocks
        durable.append(self._tar, bytes(1024 + -size % 10240))
        durable.sync(self._tar)
        return self.path("tar")

    def close(self) -> None:
        """Close the files; what was ended stays."""
        for file in (self._tar, self._records, self._journal):
            file.close()

    def _new(self, kind: str) -> BinaryIO:
        return self.path(kind).open("xb", buffering=0)

    def _append(self, samples: bytes, lines: bytes) -> None:
        durable.append(self._tar, samples)
        durable.append(self._records, lines)

    def _end_with(self, ends: Sequence[Entry]) -> None:
        durable.sync(self._tar)
        durable.sync(self._records)
        self._say(*ends)
        self._end = ends[-1]

    def _say(self, *entries: Entry) -> None:
        with self._journal_lock:
            durable.append(self._journal, b"".join(entry.line() for entry in entries))
            durable.sync(self._journal)


def _grown(loss: Sequence[Any], records: Sequence[Record]) -> Sequence[Any]:
    """The fields of a `Loss`, of these records too; empty while nothing was audited."""
    more = Loss.of(records)
    return astuple(Loss(*loss).plus(more)) if loss or more != Loss() else ()


def _digest(samples: bytes, lines: bytes) -> str:
    both = hashlib.blake2b(samples).digest() + hashlib.blake2b(lines).digest()
    return hashlib.blake2b(both, digest_size=16).hexdigest()


def _longest_prefix(
    directory: RunDirectory, shard: int, attempts: Sequence[int]
) -> tuple[int, list[Entry]]:
    """The attempt with most pictures that count, and its good `end` entries; or (0, [])."""
    prefixes = [(attempt, _good_ends(directory, shard, attempt)) for attempt in attempts]
    found = [(attempt, ends) for attempt, ends in prefixes if ends]
    return max(found, key=lambda one: one[1][-1].at, default=(0, []))


def _good_ends(directory: RunDirectory, shard: int, attempt: int) -> list[Entry]:
    """An attempt's `end` entries as far as every checksum holds and nothing is void."""
    ends = ends_that_count(read_journal(directory.partial(shard, attempt, "journal")))
    good = []
    try:
        for end, samples, lines in _chunks(directory, shard, attempt, ends):
            if _digest(samples, lines) != end.digest:
                break
            good.append(end)
    except FileNotFoundError:  # killed before its files were made, or removed after publishing
        return []
    return good


def _chunks(
    directory: RunDirectory, shard: int, attempt: int, ends: Sequence[Entry]
) -> Iterator[tuple[Entry, bytes, bytes]]:
    """What the tar and the records of an attempt grew by at each `end`."""
    tar_at = records_at = 0
    with (
        open_regular(directory.partial(shard, attempt, "tar")) as tar,
        open_regular(directory.partial(shard, attempt, "records")) as records,
    ):
        for end in ends:
            yield end, tar.read(end.tar - tar_at), records.read(end.records - records_at)
            tar_at, records_at = end.tar, end.records
