"""Whether the floor that `batchgen calibrate` promises holds for pictures that it never saw.

    python -m benchmarks.floors [--floors 40 47 53] [--pictures 64] [--seed 0] [--out DIR]

The manifest is manifests/prompts.parquet, and the model the embedded one. For each floor, in dB,
the recommended job makes the whole manifest, and its pictures are compared with those made without
a cache. Pictures of the sample do not count. A floor holds if at least the promised share of the
others, 95%, lies at it or above. The command continues where it was killed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from batchgen.calibration import Floor, Trial, measure
from batchgen.settings import load_job

MANIFEST = Path(__file__).parents[1] / "manifests" / "prompts.parquet"
# Below what pictures at these floors have.
SSIM = 0.9


def batchgen(*words: object) -> None:
    """Run a verb; what it prints goes to standard error."""
    command = [sys.executable, "-m", "batchgen", *map(str, words)]
    subprocess.run(command, check=True, stdout=sys.stderr)


def made(root: Path, name: str, job: Path | None) -> Trial:
    """The whole manifest, made with a job."""
    words = ["--job", job] if job else []
    batchgen("submit", MANIFEST, *words, "--set", "output.format=png", "--out", root / name)
    return Trial(name, root / name, load_job(job))


def unseen_keys(root: Path, run: Path) -> set[int]:
    """The keys, in a run of the whole manifest, of the pictures that are not in the sample."""
    sample = pq.read_table(root / "sample.parquet", columns=["of_row", "of_image"]).to_pylist()
    seen = {(row["of_row"], row["of_image"]) for row in sample}
    records = pq.read_table(run / "metadata", columns=["index", "row", "image"]).to_pylist()
    return {one["index"] for one in records if (one["row"], one["image"]) not in seen}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--floors", type=float, nargs="+", default=[40, 47, 53], help="dB")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/floors"))
    given = parser.parse_args()
    root, failed = given.out / f"calibrate-{given.pictures}-{given.seed}", False
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    plain = made(given.out, "uncached", None)
    print("| floor, dB | recommended | unseen pictures | at the floor or above | worst, dB |")
    print("|---|---|---|---|---|")
    for decibels in given.floors:
        sample = ["--pictures", given.pictures, "--seed", given.seed, "--out", root]
        batchgen("calibrate", MANIFEST, *sample, "--min-psnr", decibels, "--min-ssim", SSIM)
        cache = load_job(root / "job.toml").cache
        setting = f"{cache.policy}-{cache.tolerance:g}-{cache.threshold:g}"
        unseen = unseen_keys(root, plain.root)
        measured = measure(made(given.out, setting, root / "job.toml"), plain)
        floor, others = (
            Floor(decibels, SSIM, 0.95),
            [p for p in measured.pictures if p.key in unseen],
        )
        kept = sum(map(floor.keeps, others)) / len(others)
        failed |= kept < floor.share
        worst = min(one.psnr_db for one in others)
        told = ", ".join(f"{k} = {v}" for k, v in cache.model_dump(exclude_unset=True).items())
        print(f"| {decibels:g} | {told} | {len(others)} | {kept:.1%} | {worst:.1f} |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
