"""Devices that spoil pictures: a sick GPU must not condemn a run.

After some wholly failed groups in a row the worker repeats a picture that is known to be good. If
this fails too, the device is listed as sick, what it wrote in this shard since does not count,
and the worker leaves. If no picture is known to be good, of this worker or of any other, the
failures stand and the failure budget decides.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable
from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

from batchgen import durable, slurm
from batchgen.manifest import NOTHING, Picture
from batchgen.run import RunDirectory
from batchgen.shard import Record, published_shards, read_metadata, unpublished_records


def device_name(worker: int) -> str:
    """The name of this worker's device; no other host has a device of this name."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    # Old drivers have slashes in the names of a card's slices; the name becomes a file's.
    device = f"cuda{re.sub('[,/]', '-', visible)}" if visible else f"slot{worker}"
    return f"{slurm.node()}.{device}"


def mark_sick(directory: RunDirectory, device: str, reason: str) -> None:
    """List a device as sick."""
    text = json.dumps({"device": device, "reason": reason, "at": time.time()})
    durable.create(_file(directory, device), text.encode())


def is_sick(directory: RunDirectory, device: str) -> bool:
    """Whether a device is listed as sick."""
    return _file(directory, device).exists()


def _file(directory: RunDirectory, device: str) -> Path:
    return directory.sick / f"{device}.json"


def forgive(directory: RunDirectory) -> None:
    """Empty the list. A person who resumes a run may have repaired its devices."""
    for path in directory.sick.iterdir():
        durable.remove(path)


def known_good(directory: RunDirectory, records: Iterable[Record]) -> Picture | None:
    """A picture that was made well: one of these records, or one that any worker wrote."""
    for record in chain(records, unpublished_records(directory)):
        if record.outcome == "ok":
            return _picture({name: getattr(record, name) for name in _SHARED})
    ok = [("outcome", "=", "ok")]
    for shard in sorted(published_shards(directory)):
        table = read_metadata(directory.metadata(shard), ["index", *_SHARED, "outcome"], ok)
        if table.num_rows:
            row = table.slice(0, 1).to_pylist()[0]
            return _picture({**row, "key": row["index"]})
    return None


_SHARED = [field.name for field in fields(Picture) if field.name != "extra"]


def _picture(row: dict[str, Any]) -> Picture:
    return Picture(**{name: row[name] for name in _SHARED}, extra=NOTHING)
