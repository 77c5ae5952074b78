"""Publish a shard whose last group has ended: complete, sync and commit its tar and metadata.

Everything is synced under names that carry the attempt's number, the folder too, before
`commit_shard` links.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa

from batchgen import durable
from batchgen.planning import Plan, Shard
from batchgen.run import RunDirectory
from batchgen.shard.commit import Done, commit_shard
from batchgen.shard.loss import Loss
from batchgen.shard.metadata import encode_table, to_table
from batchgen.shard.partial_shard import PartialShard
from batchgen.shard.records import Record


def publish_shard(
    directory: RunDirectory, partial: PartialShard, shard: Shard, extras: pa.Table, plan: Plan
) -> bool:
    """Commit a finished attempt and give the winner's files their published names.

    :param extras: the manifest's other columns, one row a record, in the records' order.
    :return: whether this attempt has won.
    """
    records = partial.records()
    ok = sum(record.outcome == "ok" for record in records)
    tar_bytes, tar_sha256, tar_md5 = _fingerprints(partial.seal()) if ok else (0, "", "")
    metadata = encode_table(
        to_table(records, extras, made_with=plan.made_with, older=plan.is_older)
    )
    durable.write(partial.path("parquet"), metadata)
    done = Done(
        shard=partial.shard,
        attempt=partial.attempt,
        generation=partial.generation,
        first_key=shard.first_key,
        ok=ok,
        failed=len(records) - ok,
        failures=dict(Counter(record.cause for record in records if record.outcome == "failed")),
        tar=directory.data(partial.shard).name if ok else None,
        tar_bytes=tar_bytes,
        tar_sha256=tar_sha256,
        tar_md5=tar_md5,
        metadata_sha256=hashlib.sha256(metadata).hexdigest(),
        group_s=_device_seconds(records),
        finished_at=time.time(),
        loss=Loss.of(records),
    )
    durable.write(partial.path("json"), done.encode())
    durable.sync_folder(partial.path("json").parent)
    return commit_shard(directory, done)


def _device_seconds(records: list[Record]) -> float:
    """Seconds that a device worked on these pictures: each has its share of its group's time."""
    return sum(record.group_s / record.group_size for record in records)


def _fingerprints(path: Path) -> tuple[int, str, str]:
    """Bytes, SHA-256 and MD5 of a file; wids wants MD5."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = file.seek(0, 2)
        file.seek(0)
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return size, sha256, md5
