"""A device under suspicion: a sick GPU must not condemn a run.

After some wholly failed groups in a row the worker repeats a picture that is known to be good. If that fails too, the device
is listed as sick, what it wrote in this shard since does not count, and the worker quits. Without any picture known
to be good, of this worker or of any other, the failures stand, and the failure budget decides.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import fields
from itertools import chain
from typing import Any

import pyarrow.parquet as pq

from batchgen import durable, slurm
from batchgen.manifest import Picture
from batchgen.run import RunDirectory
from batchgen.shard import Record, published_shards, unpublished_records


def device_name(worker: int) -> str:
    """This worker's device, as one name over all hosts."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return (
        f"{slurm.node()}.cuda{visible.replace(',', '-')}"
        if visible
        else f"{slurm.node()}.slot{worker}"
    )


def mark_sick(directory: RunDirectory, device: str, reason: str) -> None:
    """List a device as sick; `resume` clears the list."""
    durable.create(
        directory.sick / f"{device}.json",
        json.dumps({"device": device, "reason": reason, "at": time.time()}).encode(),
    )


def is_sick(directory: RunDirectory, device: str) -> bool:
    """Whether a device is listed."""
    return (directory.sick / f"{device}.json").exists()


def forgive(directory: RunDirectory) -> None:
    """Empty the list: a person resumes, so a device may have been repaired."""
    for path in directory.sick.iterdir():
        durable.remove(path)


def known_good(directory: RunDirectory, records: Iterable[Record]) -> Picture | None:
    """A picture of this run that was made well: from these records, else from what any worker wrote."""
    for record in chain(records, unpublished_records(directory)):
        if record.outcome == "ok":
            return _picture({name: getattr(record, name) for name in _SHARED})
    for shard in sorted(published_shards(directory)):
        rows = (
            pq.read_table(
                directory.metadata(shard),
                columns=[*_SHARED, "outcome"],
                filters=[("outcome", "=", "ok")],
            )
            .slice(0, 1)
            .to_pylist()
        )
        if rows:
            return _picture(rows[0])
    return None


_SHARED = [field.name for field in fields(Picture) if field.name != "extra"]


def _picture(row: dict[str, Any]) -> Picture:
    return Picture(**{name: row[name] for name in _SHARED}, extra="{}")
