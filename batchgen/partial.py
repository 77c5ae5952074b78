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
import json
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from batchgen import durable
from batchgen.records import Record, parse
from batchgen.store import Store


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the journal. Offsets are bytes from the start of the file."""

    do: Literal["begin", "end", "void", "verdict"]
    at: int  # position in the shard: pictures before it, in plan order
    count: int = 0  # begin, verdict: pictures being made together
    tar: int = 0  # end: offset in the tar
    records: int = 0  # end: offset in the records
    failed: int = 0  # end: failed pictures so far
    digest: str = ""  # end: of the bytes both files grew by since the last end
    width: int = 0  # verdict: px of the pictures
    height: int = 0
    cause: str = ""  # verdict: "out of memory" or "exception"
    why: str = ""  # verdict: the message

    def line(self) -> bytes:
        """The entry and its checksum as one line."""
        text = json.dumps({name: value for name, value in asdict(self).items() if value != ""}).encode()
        return b"%s %08x\n" % (text, zlib.crc32(text))


def read_journal(path: Path) -> list[Entry]:
    """The journal's lines up to the first that is torn; [] where there is no journal."""
    entries = []
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    for line in lines:
        text, _, checksum = line.rpartition(b" ")
        if checksum != b"%08x\n" % zlib.crc32(text):
            break
        entries.append(Entry(**json.loads(text)))
    return entries


def in_flight(entries: Sequence[Entry]) -> list[Entry]:
    """The begins a journal breaks off in: none, the group being denoised, or also the one before it, being decoded and written."""
    ended = max((entry.at for entry in entries if entry.do == "end"), default=0)
    return [entry for entry in entries if entry.do == "begin" and entry.at >= ended]


def ends_that_count(entries: Sequence[Entry]) -> list[Entry]:
    """A journal's `end` entries that are not void."""
    limit = min((entry.at for entry in entries if entry.do == "void"), default=None)
    return [entry for entry in entries if entry.do == "end" and (limit is None or entry.at <= limit)]


def furthest(store: Store, published: set[int]) -> dict[int, tuple[int, Entry]]:
    """For every shard that is begun and not published: the attempt that came furthest, and its last end."""
    found: dict[int, tuple[int, Entry]] = {}
    for path in (store.inner / "partial").glob("*/*.journal"):
        shard, attempt = (int(number) for number in path.name.split(".")[:2])
        ends = [] if shard in published else ends_that_count(read_journal(path))
        if ends and (shard not in found or ends[-1].at > found[shard][1].at):
            found[shard] = attempt, ends[-1]
    return found


def verdicts(store: Store) -> Iterator[Entry]:
    """All that were given in shards that are not published yet."""
    for path in (store.inner / "partial").glob("*/*.journal"):
        yield from (entry for entry in read_journal(path) if entry.do == "verdict")


def written(store: Store) -> Iterator[Record]:
    """Records of pictures that are written and not published yet, shard by shard."""
    for shard, (attempt, end) in sorted(furthest(store, store.committed()).items()):
        path = store.partial(shard, attempt, "records")
        try:
            lines = path.read_bytes()[: end.records]
        except FileNotFoundError:  # published a moment ago
            continue
        yield from parse(lines, str(path))


class Partial:
    """The files of one attempt, open for appending; created by copying a prefix of earlier attempts.

    `position` is how many pictures of the shard are safely written, `failed` how many of those failed.
    """

    def __init__(self, store: Store, shard: int, attempt: int, earlier: Sequence[int]) -> None:
        self._store, self.shard, self.attempt = store, shard, attempt
        source, ends = _longest_prefix(store, shard, earlier)
        self._tar = self._new("tar")
        self._records = self._new("records")
        self._journal = self._new("journal")
        self._end = Entry("end", 0)
        self._turn = threading.Lock()  # the main thread begins a group while the writing thread ends the one before
        if ends:
            self._copy(source, ends)
        durable.sync_folder(self.path("journal").parent)

    def path(self, kind: str) -> Path:
        """A file of this attempt."""
        return self._store.partial(self.shard, self.attempt, kind)

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
        end = Entry("end", at, tar=tar, records=records, failed=failed, digest=_digest(samples, lines))
        self._say(end)
        self._end = end

    def _copy(self, source: int, ends: Sequence[Entry]) -> None:
        for _, samples, lines in _chunks(self._store, self.shard, source, ends):
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
    return hashlib.blake2b(hashlib.blake2b(samples).digest() + hashlib.blake2b(lines).digest(), digest_size=16).hexdigest()


def _longest_prefix(store: Store, shard: int, attempts: Sequence[int]) -> tuple[int, list[Entry]]:
    """The attempt with the most pictures that count, and its good `end` entries; (0, []) where none has any."""
    best: tuple[int, list[Entry]] = (0, [])
    for attempt in attempts:
        ends = _good_ends(store, shard, attempt)
        if ends and (not best[1] or ends[-1].at > best[1][-1].at):
            best = (attempt, ends)
    return best


def _good_ends(store: Store, shard: int, attempt: int) -> list[Entry]:
    """An attempt's `end` entries as far as every checksum holds and nothing is void."""
    ends = ends_that_count(read_journal(store.partial(shard, attempt, "journal")))
    good = []
    try:
        for end, samples, lines in _chunks(store, shard, attempt, ends):
            if _digest(samples, lines) != end.digest:
                break
            good.append(end)
    except FileNotFoundError:  # killed before its files were made, or swept because the shard is published
        return []
    return good


def _chunks(store: Store, shard: int, attempt: int, ends: Sequence[Entry]) -> Iterator[tuple[Entry, bytes, bytes]]:
    """What the tar and the records of an attempt grew by at each `end`."""
    tar_at = records_at = 0
    with store.partial(shard, attempt, "tar").open("rb") as tar, store.partial(shard, attempt, "records").open("rb") as records:
        for end in ends:
            yield end, tar.read(end.tar - tar_at), records.read(end.records - records_at)
            tar_at, records_at = end.tar, end.records
