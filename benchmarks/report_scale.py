"""`batchgen report` of a run with a million finished pictures: time and peak memory.

    python -m benchmarks.report_scale [--pictures 1000000] [--shard 1000]

The run is planned for real. Its records are generated with every column, random times and random
skipped steps, by default a thousand a shard; its tars hold one small picture under every name.
"""

from __future__ import annotations

import argparse
import io
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from batchgen.planning import Shard
from batchgen.run import RunDirectory
from batchgen.run.run import create
from batchgen.settings.job import load_job
from batchgen.shard.columns import SCHEMA, key_text
from batchgen.shard.commit import Done
from batchgen.shard.loss import Loss
from batchgen.shard.metadata import encode_table

STEPS, HOSTS = 28, 16
# In the columns that the report does not read, by type; 0 in those of other types.
EMPTY = {pa.string(): "", pa.float64(): 0.0}


def columns(shard: Shard, number: int) -> pa.Table:
    """Records of a shard; one picture in a hundred failed."""
    rng, count = np.random.default_rng(number), shard.pictures
    keys = np.arange(shard.first_key, shard.first_key + count)
    denoise_s = rng.lognormal(0, 0.3, count)
    skipped = (rng.random((count, STEPS)) < 0.6).astype(np.uint8) + ord("0")
    given = {
        "key": [key_text(key) for key in keys.tolist()],
        "index": keys,
        "tar": [f"data/{number:06d}.tar"] * count,
        "row": keys,
        "shard": np.full(count, number),
        "prompt": [f"a photograph of a red fox number {key} in the snow" for key in keys],
        "seed": keys,
        "width": np.full(count, 1024),
        "height": np.where(keys % 3 == 0, 1024, 768),
        "steps": np.full(count, STEPS),
        "outcome": np.where(keys % 100 == 7, "failed", "ok"),
        "cause": np.where(keys % 100 == 7, "not finite", ""),
        "group_size": np.full(count, 4),
        "device_s": denoise_s * 1.12 / 4,
        "group_text_s": denoise_s * 0.02,
        "group_denoise_s": denoise_s,
        "group_decode_s": denoise_s * 0.1,
        "total_s": denoise_s * 1.2,
        "skipped": [bytes(row).decode() for row in skipped],
        "distances": rng.random((count, STEPS)).tolist(),
        "host": [f"node-{number % HOSTS:02d}"] * count,
        "finished_at": ((1.8e9 + number + np.sort(rng.random(count)) * 60) * 1e6).astype(np.int64),
        "psnr": [float(key % 40 + 20) if key % 100 == 8 else None for key in keys],
        "ssim": [0.99 if key % 100 == 8 else None for key in keys],
    }
    for field in SCHEMA:
        if field.name not in given:
            empty = None if pa.types.is_list(field.type) else EMPTY.get(field.type, 0)
            given[field.name] = [empty] * count
    return pa.table({name: pa.array(given[name], SCHEMA.field(name).type) for name in SCHEMA.names})


def loss(table: pa.Table) -> Loss:
    psnrs = table["psnr"].drop_null().to_pylist()
    if not psnrs:
        return Loss()
    means = {"psnr_mean": sum(psnrs) / len(psnrs), "ssim_mean": 0.99}
    return Loss(len(psnrs), **means, psnr_worst=min(psnrs), ssim_worst=0.99)


def write_shard(directory: RunDirectory, shard: Shard, number: int, picture: bytes) -> None:
    table = columns(shard, number)
    directory.metadata(number).write_bytes(encode_table(table))
    ok = table["outcome"].to_pylist().count("ok")
    with tarfile.open(directory.data(number), "w") as tar:
        for key in table["key"].to_pylist():
            member = tarfile.TarInfo(f"{key}.jpg")
            member.size = len(picture)
            tar.addfile(member, io.BytesIO(picture))
    failures, name = {"not finite": shard.pictures - ok}, f"{number:06d}.tar"
    sums = "0" * 64, "0" * 32, "0" * 64
    counts = shard.first_key, ok, shard.pictures - ok, failures
    done = Done(number, 1, 0, *counts, name, 10240, *sums, 300.0, 1.8e9, loss(table))
    directory.done(number).write_bytes(done.encode())


def small_picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(buffer, "JPEG")
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--shard", type=int, default=1000, help="pictures of a shard")
    asked = parser.parse_args()
    pictures = asked.pictures
    with tempfile.TemporaryDirectory() as folder:
        manifest, root = Path(folder) / "prompts.parquet", Path(folder) / "run"
        pq.write_table(pa.table({"prompt": [f"fox {n}" for n in range(pictures)]}), manifest)
        job = load_job(None, ["engine.kind=pattern", f"shards.pictures={asked.shard}"])
        run, _ = create(root, [manifest], job, None)
        for number, shard in enumerate(run.plan.shards):
            write_shard(run.directory, shard, number, small_picture())
        start = time.perf_counter()
        command = [sys.executable, "-m", "batchgen", "report", str(root)]
        subprocess.run(command, check=True, capture_output=True)
        wall_s, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"{pictures} pictures in {len(run.plan.shards)} shards: {wall_s:.1f} s, "
            f"{used.ru_utime + used.ru_stime:.1f} s of processors, "
            f"{used.ru_maxrss / 1e6:.2f} GB at most, "
            f"page of {(root / 'report.html').stat().st_size / 1e6:.2f} MB"
        )


if __name__ == "__main__":
    main()
