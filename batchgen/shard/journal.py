"""batchgen.shard.journal."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal


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
        text = json.dumps(
            {name: value for name, value in asdict(self).items() if value != ""}
        ).encode()
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
    return [
        entry for entry in entries if entry.do == "end" and (limit is None or entry.at <= limit)
    ]
