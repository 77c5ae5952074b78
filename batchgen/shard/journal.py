"""The journal of one attempt at a shard: what it began, what is safely written, what is void.

Every line is a JSON object and its checksum. There are four kinds of lines:

    begin at=8 count=8     pictures 8 to 15 of the shard, in plan order, are being made
    end at=16 …            the pictures before 16 are in tar and records, up to these offsets
    void at=8              nothing written at or after picture 8 counts: a sick device made it
    verdict at=8 count=4   this process ends because of these pictures: they did not fit the
                           device together, or an exception was raised while they were made

The `end` line is written after the samples and the records are synced. It holds a checksum of
what both files grew by.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from batchgen.regular_file import read_regular


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the journal. Offsets are bytes from the start of the file."""

    do: Literal["begin", "end", "void", "verdict"]
    # A position in the shard: how many pictures stand before it in plan order.
    at: int
    # begin, verdict: how many pictures are being made together.
    count: int = 0
    # end: offsets in the tar and in the records, and how many pictures have failed so far.
    tar: int = 0
    records: int = 0
    failed: int = 0
    # end: checksum of what both files grew by since the last end.
    digest: str = ""
    # end: what audits have measured so far, the fields of a `Loss`; empty without an audit.
    loss: Sequence[Any] = ()
    # verdict: the pictures' size in px, "out of memory" or "exception", and the message.
    width: int = 0
    height: int = 0
    cause: str = ""
    why: str = ""

    def line(self) -> bytes:
        """The entry and its checksum as one line."""
        fields = {name: value for name, value in asdict(self).items() if value not in ("", ())}
        text = json.dumps(fields).encode()
        return b"%s %08x\n" % (text, zlib.crc32(text))


def read_journal(path: Path) -> list[Entry]:
    """The entries up to the first damaged line; an empty list if there is no journal."""
    try:
        lines = read_regular(path).splitlines(keepends=True)
    except FileNotFoundError:
        return []
    entries = []
    for line in lines:
        text, _, checksum = line.rpartition(b" ")
        if checksum != b"%08x\n" % zlib.crc32(text):
            break
        entries.append(Entry(**json.loads(text)))
    return entries


def in_flight(entries: Sequence[Entry]) -> list[Entry]:
    """The `begin` entries without their `end`.

    There are at most two: the group being denoised, and the one before it, being decoded and
    written.
    """
    ended = max((entry.at for entry in entries if entry.do == "end"), default=0)
    return [entry for entry in entries if entry.do == "begin" and entry.at >= ended]


def ends_that_count(entries: Sequence[Entry]) -> list[Entry]:
    """The `end` entries that are not void."""
    ends = [entry for entry in entries if entry.do == "end"]
    voids = [entry.at for entry in entries if entry.do == "void"]
    return [end for end in ends if end.at <= min(voids)] if voids else ends
