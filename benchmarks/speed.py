"""batchgen against the script a user would write, on the embedded model: 128 px, 28 steps, end to
end, interleaved.

    python -m benchmarks.speed [--pictures 192] [--rounds 3] [--set KEY=VALUE …]

The script is benchmarks/stock_script.py: stock FluxPipeline, one prompt at a time, JPEG,
ShardWriter. It runs as a job array would run it, one process of one thread a core, each with its
share of the prompts; and as a single process with PyTorch's default threads. batchgen runs as the
embedded model's job file says, and again with `cache.policy = "multistep"`. It has a worker of one
thread a core too.

All are timed warm: the script's processes without their first picture, batchgen without each
worker's first group, until the last picture is on the disk. Also prints the processor, and each
worker's wall time against its denoising time.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def stock(manifest: Path, out: Path, pictures: int, *, processes: int, threads: int) -> float:
    """Pictures a second of so many processes of the script, which run at the same time."""
    script = Path(__file__).with_name("stock_script.py")
    running = []
    for number in range(processes):
        command = [sys.executable, str(script), str(manifest), str(out / str(number))]
        command += ["--limit", str(pictures), "--threads", str(threads)]
        command += ["--share", f"{number}/{processes}"]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    rates = []
    for process in running:
        printed, _ = process.communicate()
        match = re.search(r"([\d.]+) pictures/s", printed)
        assert process.returncode == 0, printed
        assert match, printed
        rates.append(float(match[1]))
    return sum(rates)


def batchgen(manifest: Path, out: Path, settings: list[str]) -> Pace:
    options = [part for setting in settings for part in ("--set", setting)]
    command = [
        sys.executable,
        "-m",
        "batchgen",
        "submit",
        str(manifest),
        "--out",
        str(out),
        *options,
    ]
    subprocess.run(command, capture_output=True, check=True)
    records = pq.read_table(out / "metadata").to_pylist()
    return Pace(*_warm(records))


def _warm(records: list[dict[str, Any]]) -> tuple[float, float]:
    rate, worst = 0.0, 0.0
    for worker in {record["worker"] for record in records}:
        groups: dict[float, list[dict[str, Any]]] = {}
        for record in records:
            if record["worker"] == worker:
                groups.setdefault(record["group_denoise_s"], []).append(
                    record
                )  # a group's pictures share its very float
        ends = sorted(
            (
                max(one["finished_at"] for one in group).timestamp(),
                len(group),
                group[0]["group_denoise_s"],
            )
            for group in groups.values()
        )
        if len(ends) < 2:  # nothing was made after its first group
            continue
        wall_s = ends[-1][0] - ends[0][0]
        rate += sum(pictures for _, pictures, _ in ends[1:]) / wall_s
        worst = max(worst, wall_s / sum(denoise_s for _, _, denoise_s in ends[1:]))
    return rate, worst


def processor() -> str:
    """What Linux calls this machine's processor, and how many cores are ours."""
    match = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    capability = torch.backends.cpu.get_cpu_capability()
    name = match[1] if match else "unknown"
    return f"{name}, {len(os.sched_getaffinity(0))} cores, {capability}, torch {torch.__version__}"


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
    cores = len(os.sched_getaffinity(0))
    few = max(given.pictures // 3, 2 * cores)
    scripts: dict[str, list[float]] = {"a process a core": [], "one process": []}
    ours: dict[str, list[Pace]] = {"as the job says": [], "with multistep": []}
    print(processor())
    with tempfile.TemporaryDirectory(prefix="batchgen-speed-") as name:
        folder = Path(name)
        manifest = folder / "prompts.parquet"
        write_manifest(manifest, given.pictures)
        for turn in range(given.rounds):
            for who, (processes, threads) in zip(scripts, ((cores, 1), (1, cores)), strict=True):
                out = folder / f"{who} {turn}"
                scripts[who].append(stock(manifest, out, few, processes=processes, threads=threads))
            for who, more in zip(ours, ([], ["cache.policy=multistep"]), strict=True):
                pace = batchgen(manifest, folder / f"{who} {turn}", [*more, *given.settings])
                ours[who].append(pace)
            rates = {who: round(some[-1], 2) for who, some in scripts.items()}
            print(f"round {turn}: script {rates}, batchgen {ours}", flush=True)
    show(scripts, ours)


def show(scripts: Mapping[str, list[float]], ours: Mapping[str, list[Pace]]) -> None:
    """The medians of the rounds, as a table."""
    theirs = {who: statistics.median(rates) for who, rates in scripts.items()}
    print(f"\n| | pictures/s | × {' | × '.join(theirs)} | wall / denoising |")
    print("|---|---|---|---|---|")
    for who, rate in theirs.items():
        print(f"| script, {who} | {rate:.2f} | | | |")
    for who, paces in ours.items():
        rate = statistics.median(pace.pictures_per_s for pace in paces)
        wall = statistics.median(pace.wall_over_denoise for pace in paces)
        factors = " | ".join(f"{rate / other:.2f}" for other in theirs.values())
        print(f"| batchgen, {who} | {rate:.2f} | {factors} | {wall:.3f} |")


if __name__ == "__main__":
    main()
