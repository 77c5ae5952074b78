"""Pictures that a report shows: thumbnails from the tars, and whole records.

A sample is spread evenly over the run: of N pictures in the order of their shards, the middle ones
of as many equal parts as there is room for. Only their shards are read.
"""

from __future__ import annotations

import base64
import io
import tarfile
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batchgen.dataset.open_picture import open_picture
from batchgen.dataset.report.numbers import Audited
from batchgen.dataset.spread import spread
from batchgen.errors import DamagedRun
from batchgen.run import RunDirectory
from batchgen.shard import Done, Superseded, remake, stream_metadata

PICTURES, FAILURES = 100, 40
# Longest side of a thumbnail and quality of its WebP, tried until it is small enough; the last
# kind always is.
KINDS = ((256, 80), (256, 60), (256, 35), (128, 50), (96, 20))
THUMB_BYTES = 12_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A picture of the report."""

    # All columns of its record.
    record: dict[str, Any]
    # The tar, as its path in the run directory, and the picture's name in it; "" if it failed.
    tar: str = ""
    member: str = ""
    # A data URI; "" if it failed.
    thumb: str = ""

    @property
    def computed(self) -> int:
        """Steps that were computed."""
        return int(self.record["steps"]) - str(self.record["skipped"]).count("1")

    @property
    def device_s(self) -> float:
        """The picture's share of the seconds that the device worked on its group."""
        return float(self.record["device_s"])


def sample_pictures(directory: RunDirectory, done: Sequence[Done], extension: str) -> list[Entry]:
    """Good pictures, spread evenly over the run, in its order.

    :param extension: of the image files in the tars.
    :raises DamagedRun: a published file is gone or damaged.
    """
    found, superseded = [], Superseded(directory)
    counts = [one.ok - superseded.good(one.shard) for one in done]
    for shard, ordinals in spread(counts, PICTURES):
        number = done[shard].shard
        records = _records(superseded, number, "ok", ordinals)
        found += _entries(directory, number, records, extension)
    return found


def sample_failures(directory: RunDirectory, done: Sequence[Done]) -> list[Entry]:
    """Failed pictures, spread evenly over the run's failures.

    :raises DamagedRun: a shard's records are gone or damaged.
    """
    found, superseded = [], Superseded(directory)
    counts = [
        one.failed - len(superseded.keys(one.shard)) + superseded.good(one.shard) for one in done
    ]
    for shard, ordinals in spread(counts, FAILURES):
        records = _records(superseded, done[shard].shard, "failed", ordinals)
        found += [Entry(record) for record in records]
    return found


def worst_pictures(
    directory: RunDirectory, worst: Sequence[Audited], extension: str
) -> list[Entry]:
    """The audited pictures that are named, in the same order.

    :raises DamagedRun: a published file is gone or damaged.
    """
    places = defaultdict(list)
    for one in worst:
        places[one.shard].append(one.index)
    found = {}
    for shard, ours in places.items():
        rows: list[dict[str, Any]] = []
        for table in stream_metadata(directory.metadata(shard)):
            rows += table.filter(pc.is_in(table["index"], pa.array(ours))).to_pylist()
        for entry in _entries(directory, shard, rows, extension):
            found[entry.record["index"]] = entry
    return [found[one.index] for one in worst]


def _records(
    superseded: Superseded, shard: int, outcome: str, ordinals: Sequence[int]
) -> list[dict[str, Any]]:
    """Whole records of a shard: those of this outcome are counted, and these picked."""
    found: list[dict[str, Any]] = []
    passed = 0
    for table in superseded.current(shard):
        rows = table.filter(pc.equal(table["outcome"], outcome))
        ours = [at - passed for at in ordinals if passed <= at < passed + rows.num_rows]
        found += rows.take(ours).to_pylist() if ours else []
        passed += rows.num_rows
    return found


def _entries(
    directory: RunDirectory, shard: int, records: Sequence[dict[str, Any]], extension: str
) -> list[Entry]:
    names = [f"{record['key']}.{extension}" for record in records]
    tar = directory.data(shard)
    try:
        images = _images(tar, set(names))
        thumbs = [thumbnail(images[name]) for name in names]
    except (tarfile.TarError, OSError, SyntaxError, KeyError) as error:  # Pillow's, for broken PNG
        remedy = remake(directory, deep=True)
        raise DamagedRun(f"{tar}: a picture cannot be read: {error}. {remedy}") from None
    path = str(tar.relative_to(directory.root))
    return [
        Entry(record, path, name, thumb)
        for record, name, thumb in zip(records, names, thumbs, strict=True)
    ]


def _images(path: Path, names: Collection[str]) -> dict[str, bytes]:
    """The named members of a tar. Reading ends at the last one."""
    found: dict[str, bytes] = {}
    with tarfile.open(path) as tar:
        while len(found) < len(names) and (member := tar.next()):
            if member.name in names and (stream := tar.extractfile(member)):
                found[member.name] = stream.read()
            # tarfile would keep every header that it has passed.
            tar.members.clear()  # type: ignore[attr-defined]
    return found


def thumbnail(data: bytes) -> str:
    """A small picture of an image file, as a data URI.

    :raises OSError: the file is no picture.
    """
    webp = b""
    for side_px, quality in KINDS:
        with open_picture(data) as opened:
            opened.thumbnail((side_px, side_px))  # a large JPEG is decoded at a fraction
            buffer = io.BytesIO()
            opened.convert("RGB").save(buffer, "WEBP", quality=quality)
        webp = buffer.getvalue()
        if len(webp) <= THUMB_BYTES:
            break
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"
