"""`batchgen status` of a run with 100,000 finished shards: the first look, and the second, which
opens only what is new.

    python -m benchmarks.status_scale [--shards 100000]

The run is planned for real (a manifest of one prompt a shard); its commits are written directly, as
`publish` writes them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.run.directory import RunDirectory
from batchgen.run.run import create
from batchgen.settings.job import load_job
from batchgen.shard.commit import Done


def finished(directory: RunDirectory, shard: int) -> None:
    done = Done(
        shard,
        1,
        0,
        shard,
        1,
        0,
        {},
        f"{shard:06d}.tar",
        10240,
        "0" * 64,
        "0" * 32,
        "0" * 64,
        1.0,
        0.0,
    )
    directory.done(shard).write_bytes(done.encode())
    directory.metadata(shard).write_bytes(b"")
    directory.data(shard).write_bytes(b"")


def look(root: Path) -> float:
    start = time.perf_counter()
    command = [sys.executable, "-m", "batchgen", "status", str(root), "--json"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode in (3, 5), process.stderr
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=int, default=100_000)
    shards = parser.parse_args().shards
    with tempfile.TemporaryDirectory() as folder:
        manifest, root = Path(folder) / "prompts.parquet", Path(folder) / "run"
        pq.write_table(
            pa.table({"prompt": [f"prompt {number}" for number in range(shards + 1)]}), manifest
        )
        job = load_job(None, ["engine.kind=pattern", "shards.pictures=1"])
        run, _ = create(root, [manifest], job, None)
        for shard in range(shards):
            finished(run.directory, shard)
        print(
            f"{shards} finished shards: first status {look(root):.2f} s, "
            f"second {look(root):.2f} s (whole process)"
        )


if __name__ == "__main__":
    main()
