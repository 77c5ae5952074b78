"""How long a large manifest takes to validate, and how much memory: 10 million rows with ids by
default.

    python -m benchmarks.plan_scale [--rows 10000000] [--prompt-characters 60]

Writes a manifest into a temporary folder (about 0.4 GB), runs `batchgen plan` on it in a fresh
process and prints seconds and peak resident memory; the folder is removed. The writer has a process
of its own too: Linux lets a child inherit its parent's peak. Target: 60 s and 1 GB on two cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WORDS = (
    "a",
    "red",
    "green",
    "blue",
    "small",
    "large",
    "circle",
    "square",
    "triangle",
    "ring",
    "on",
    "under",
    "two",
    "striped",
    "plain",
)
ROWS_A_GROUP = 1 << 20


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--rows", type=int, default=10_000_000)
    arguments.add_argument("--prompt-characters", type=int, default=60)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="batchgen-plan-scale-") as folder:
        manifest = Path(folder) / "prompts.parquet"
        with ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), max_tasks_per_child=1
        ) as processes:
            processes.submit(write, manifest, chosen.rows, chosen.prompt_characters).result()
            print(f"manifest: {chosen.rows:,} rows, {manifest.stat().st_size / 1e6:.0f} MB")
            found = processes.submit(measure, manifest).result()
    for name, value in found.items():
        print(f"{name}: {value}")


def write(manifest: Path, rows: int, characters: int) -> None:
    """Random words as prompts; ids in random order; seeds, two sizes and one travelling column."""
    random = np.random.default_rng(0)
    schema = pa.schema(
        [
            ("prompt", pa.string()),
            ("id", pa.string()),
            ("seed", pa.int64()),
            ("width", pa.int32()),
            ("topic", pa.string()),
        ]
    )
    numbers = random.permutation(rows)
    with pq.ParquetWriter(manifest, schema, compression="snappy") as writer:
        for start in range(0, rows, ROWS_A_GROUP):
            size = min(ROWS_A_GROUP, rows - start)
            words = random.integers(0, len(WORDS), (size, -(-characters // 4)))
            prompts = [" ".join(WORDS[word] for word in row)[:characters] for row in words.tolist()]
            ids = [f"row-{number:010d}" for number in numbers[start : start + size].tolist()]
            seeds = random.integers(0, 2**63 - 1, size)
            widths = random.choice(np.array([512, 1024], np.int32), size)
            topics = random.choice(np.array(["shapes", "colours", "counting"]), size)
            writer.write_table(
                pa.table([prompts, ids, seeds, widths, topics], schema=schema),
                row_group_size=ROWS_A_GROUP,
            )


def measure(manifest: Path) -> dict[str, str]:
    """Seconds and CPU seconds of a `batchgen plan` process, and its peak resident memory."""
    settings = [
        "--set",
        "model.max_sequence_length=512",
        "--set",
        "sampling.width=1024",
        "--set",
        "sampling.height=1024",
    ]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "batchgen", "plan", str(manifest), *settings], check=True)
    seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "batchgen plan": f"{seconds:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of CPU",
        "peak resident": f"{used.ru_maxrss / 1024:.0f} MB",
    }


if __name__ == "__main__":
    main()
