"""How long a large manifest takes to validate, and how much memory: 10 million rows with ids by
default.

    python -m benchmarks.plan_scale [--rows 10000000] [--prompt-characters 60]
    python -m benchmarks.plan_scale --mixed --rows 2282665 --model FOLDER --rehearse

`--mixed` prompts have 45 words in the median and up to 300, as they are spread in this repository's
texts. Every fiftieth stands twice, and some hold more than ASCII. Nine of ten pictures are 512×512.
With 2,282,665 rows it has the size of a data set of FLUX.2 that was published. `--rehearse` goes
on: it submits a rehearsal that ends at once for want of time, and asks `status` and `verify` what
is there. Without it the manifest is only planned.

Writes a manifest into a temporary folder (about 0.4 GB), runs `batchgen plan` on it in a fresh
process and prints seconds and peak resident memory; the folder is removed. The writer has a process
of its own too: Linux lets a child inherit its parent's peak. Target: 60 s and 1 GB on two cores.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import re
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
# Rows that are written at a time, where prompts are long.
MIXED_ROWS = 1 << 16
TEXTS = Path(__file__).parents[1]
SETTINGS = {"model.max_sequence_length": 512, "sampling.width": 1024, "sampling.height": 1024}


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--rows", type=int, default=10_000_000)
    arguments.add_argument("--prompt-characters", type=int, default=60)
    arguments.add_argument("--mixed", action="store_true")
    arguments.add_argument("--model", default="tiny", help="a folder in diffusers layout")
    arguments.add_argument("--rehearse", action="store_true")
    chosen = arguments.parse_args()
    settings = [
        f"{key}={value}" for key, value in (SETTINGS | {"model.path": chosen.model}).items()
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    with tempfile.TemporaryDirectory(prefix="batchgen-plan-scale-") as folder:
        manifest = Path(folder) / "prompts.parquet"
        with ProcessPoolExecutor(
            1, multiprocessing.get_context("spawn"), max_tasks_per_child=1
        ) as processes:
            if chosen.mixed:
                processes.submit(write_mixed, manifest, chosen.rows).result()
            else:
                processes.submit(write, manifest, chosen.rows, chosen.prompt_characters).result()
            print(f"manifest: {chosen.rows:,} rows, {manifest.stat().st_size / 1e6:.0f} MB")
            run = str(Path(folder) / "run")
            # No group of so few seconds begins, and the run stays as it was submitted.
            late = ["--set", "run.time_limit_s=1", "--set", "run.workers=1"]
            commands = {"plan": ["plan", str(manifest), *words]}
            if chosen.rehearse:
                commands["submit --rehearse"] = [
                    *("submit", str(manifest), "--rehearse", "--out", run),
                    *(*words, *late),
                ]
                commands |= {"status": ["status", run], "verify": ["verify", run]}
            for name, command in commands.items():
                print(f"{name}: {processes.submit(measure, command).result()}", flush=True)


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


def write_mixed(manifest: Path, rows: int) -> None:
    """Prompts of many lengths in natural words, some of them twice; two sizes, two step counts."""
    random = np.random.default_rng(0)
    texts = [path.read_text() for path in [*TEXTS.glob("*.md"), *TEXTS.glob("benchmarks/*.md")]]
    found = collections.Counter(re.findall(r"[A-Za-z][A-Za-z'-]*[.,]?", " ".join(texts)))
    words = np.array([*found, "“quoted”", "café", "—"], object)
    counts = np.array([*found.values(), *[sum(found.values()) / 3500] * 3], float)
    schema = pa.schema(
        [
            ("prompt", pa.string()),
            ("seed", pa.int64()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("steps", pa.int32()),
        ]
    )
    with pq.ParquetWriter(manifest, schema, compression="snappy") as writer:
        for start in range(0, rows, MIXED_ROWS):
            size = min(MIXED_ROWS, rows - start)
            lengths = random.lognormal(np.log(45), 0.7, size).astype(int).clip(3, 300)
            drawn = random.choice(words, lengths.sum(), p=counts / counts.sum())
            parts = np.split(drawn, np.cumsum(lengths)[:-1])
            prompts = [" ".join(part) for part in parts]
            prompts[1::50] = prompts[::50][: len(prompts[1::50])]
            sides = random.choice(np.array([512, 768], np.int32), size, p=[0.9, 0.1])
            steps = random.choice(np.array([4, 8], np.int32), size, p=[0.8, 0.2])
            seeds = random.integers(0, 2**63 - 1, size)
            columns = [prompts, seeds, sides, sides, steps]
            writer.write_table(pa.table(columns, schema=schema))


def measure(command: list[str]) -> str:
    """Seconds and CPU seconds of a `batchgen` process, and its peak resident memory."""
    start = time.perf_counter()
    process = subprocess.run([sys.executable, "-m", "batchgen", *command], check=False)
    seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return (
        f"{seconds:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of CPU, peak resident "
        f"{used.ru_maxrss / 1024:.0f} MB, exit status {process.returncode}"
    )


if __name__ == "__main__":
    main()
