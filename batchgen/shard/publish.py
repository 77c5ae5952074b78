"""A shard whose last group has ended → its commit.

Everything is synced under attempt-named names first, the folder too; then `Store.commit` makes the one link.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen import durable
from batchgen.planning import Shard
from batchgen.run import RunDirectory
from batchgen.shard.commit import Done, commit_shard
from batchgen.shard.partial_shard import PartialShard
from batchgen.shard.records import Record, to_table


def publish_shard(
    directory: RunDirectory, partial: PartialShard, shard: Shard, extras: pa.Table, generation: int
) -> bool:
    """Commit a finished partial and give its files their published names; False if another attempt was first.

    :param extras: the travelling columns, one row a record, in the records' order.
    """
    records = partial.records()
    ok = sum(record.outcome == "ok" for record in records)
    tar = _digests(partial.seal()) if ok else ("", "", 0)
    sink = pa.BufferOutputStream()
    pq.write_table(to_table(records, extras), sink, compression="zstd")
    metadata = sink.getvalue().to_pybytes()
    durable.write(partial.path("parquet"), metadata)
    done = Done(
        shard=partial.shard,
        attempt=partial.attempt,
        generation=generation,
        first_key=shard.first_key,
        ok=ok,
        failed=len(records) - ok,
        failures=dict(Counter(record.cause for record in records if record.outcome == "failed")),
        tar=directory.data(partial.shard).name if ok else None,
        tar_sha256=tar[0],
        tar_md5=tar[1],
        tar_bytes=tar[2],
        metadata_sha256=hashlib.sha256(metadata).hexdigest(),
        group_s=device_seconds(records),
        finished_at=time.time(),
    )
    durable.write(partial.path("json"), done.encode())
    durable.sync_folder(partial.path("json").parent)
    return commit_shard(directory, done)


def device_seconds(records: list[Record]) -> float:
    """Seconds a device worked on these pictures: each picture's share of its group's text, denoise and decode."""
    return sum(
        (record.text_s + record.denoise_s + record.decode_s) / record.group_size
        for record in records
    )


def _digests(path: Path) -> tuple[str, str, int]:
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha256.update(chunk)
            md5.update(chunk)
            size += len(chunk)
    return sha256.hexdigest(), md5.hexdigest(), size
