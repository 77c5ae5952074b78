"""32 processes share 10,000 shards through the real claim code: each shard exactly once, and how
many claims a second.

python -m benchmarks.claims_scale [--shards 10000] [--workers 32]
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

from batchgen.run.directory import RunDirectory
from batchgen.shard.claims import Claims


def work(root: str, shards: int, worker: int, workers: int, barrier: object) -> list[int]:
    directory = RunDirectory(Path(root))
    claims = Claims(directory, shards, start=worker * shards // workers)
    barrier.wait()
    taken = []
    while claim := claims.next():
        taken.append(claim.shard)
        directory.done(claim.shard).write_bytes(
            b""
        )  # the shard is finished at once: the smallest there can be
    return taken


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=32)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as root,
        multiprocessing.Manager() as manager,
        multiprocessing.Pool(given.workers) as pool,
    ):
        RunDirectory(Path(root)).make_folders(given.shards)
        barrier = manager.Barrier(given.workers + 1)
        jobs = [
            pool.apply_async(work, (root, given.shards, worker, given.workers, barrier))
            for worker in range(given.workers)
        ]
        barrier.wait()
        start = time.perf_counter()
        taken = [shard for job in jobs for shard in job.get()]
        seconds = time.perf_counter() - start
    assert sorted(taken) == list(range(given.shards)), "a shard was claimed twice or never"
    print(
        f"{given.workers} processes, {given.shards} shards, each exactly once: "
        f"{seconds:.1f} s, {given.shards / seconds:.0f} claims/s"
    )


if __name__ == "__main__":
    main()
