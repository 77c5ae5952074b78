"""batchgen against the script a user would write, on the embedded model: 128 px, 28 steps, end to
end, interleaved.

    python -m benchmarks.speed [--pictures 192] [--rounds 3]

The script is benchmarks/stock_script.py: stock FluxPipeline, one prompt at a time, JPEG,
ShardWriter, PyTorch's default threads. Both are timed warm: the script without its first picture,
batchgen without each worker's first group, both until the last picture is on the disk. Also prints
each worker's wall time against its denoising time.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

COLOURS, SHAPES = ("red", "green", "blue", "yellow"), ("circle", "square", "triangle")


@dataclass(frozen=True)
class Pace:
    """Warm pictures a second over all workers, and the worst wall over denoising time."""

    pictures_per_s: float
    wall_over_denoise: float


def write_manifest(path: Path, pictures: int) -> None:
    prompts = [
        f"a {COLOURS[n % 4]} {SHAPES[n // 4 % 3]} on a white background" for n in range(pictures)
    ]
    pq.write_table(pa.table({"prompt": prompts, "seed": list(range(pictures))}), path)


def stock(manifest: Path, out: Path, pictures: int) -> float:
    script = Path(__file__).with_name("stock_script.py")
    threads = str(torch.get_num_threads())
    command = [
        sys.executable,
        str(script),
        str(manifest),
        str(out),
        "--limit",
        str(pictures),
        "--threads",
        threads,
    ]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    match = re.search(r"([\d.]+) pictures/s", printed)
    assert match, printed
    return float(match[1])


def batchgen(manifest: Path, out: Path, settings: list[str]) -> Pace:
    options = [part for setting in settings for part in ("--set", setting)]
    command = [
        sys.executable,
        "-m",
        "batchgen.cli",
        "submit",
        str(manifest),
        "--out",
        str(out),
        *options,
    ]
    subprocess.run(command, capture_output=True, check=True)
    records = pq.read_table(out / "metadata").to_pylist()
    return Pace(*_warm(records))


def _warm(records: list[dict[str, float]]) -> tuple[float, float]:
    rate, worst = 0.0, 0.0
    for worker in {record["worker"] for record in records}:
        groups: dict[float, list[dict[str, float]]] = {}
        for record in records:
            if record["worker"] == worker:
                groups.setdefault(record["denoise_s"], []).append(
                    record
                )  # a group's pictures share its very float
        ends = sorted(
            (max(r["finished_at"] for r in group), len(group), group[0]["denoise_s"])
            for group in groups.values()
        )
        wall_s = ends[-1][0] - ends[0][0]
        rate += sum(pictures for _, pictures, _ in ends[1:]) / wall_s
        worst = max(worst, wall_s / sum(denoise_s for _, _, denoise_s in ends[1:]))
    return rate, worst


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=192)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--set", action="append", default=[], dest="settings", help="passed on to batchgen"
    )
    given = parser.parse_args()
    script_rates, paces = [], []
    with tempfile.TemporaryDirectory(prefix="batchgen-speed-") as folder:
        manifest = Path(folder) / "prompts.parquet"
        write_manifest(manifest, given.pictures)
        for number in range(given.rounds):
            script_rates.append(
                stock(manifest, Path(folder) / f"stock{number}", given.pictures // 3)
            )
            paces.append(batchgen(manifest, Path(folder) / f"run{number}", given.settings))
            print(
                f"round {number}: script {script_rates[-1]:.2f} pictures/s, batchgen {paces[-1]}",
                flush=True,
            )
    ours, theirs = (
        statistics.median(pace.pictures_per_s for pace in paces),
        statistics.median(script_rates),
    )
    wall = statistics.median(pace.wall_over_denoise for pace in paces)
    print(
        f"median: script {theirs:.2f}, batchgen {ours:.2f} pictures/s: {ours / theirs:.2f}×; "
        f"wall / denoising {wall:.3f}"
    )


if __name__ == "__main__":
    main()
