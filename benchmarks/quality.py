"""What skipping steps costs and brings, on the embedded model: tolerances of "multistep",
thresholds × orders of extrapolation of "first_block", and the schedules of `batchgen calibrate`.

    python -m benchmarks.quality [--pictures 48] [--tolerances 0.005 0.01 0.02]
                                 [--thresholds 0.1 0.2 0.3 0.35 0.4 0.5] [--orders 0 1 2]
                                 [--schedules FILE …] [--square]
                                 [--guided] [--set engine.threads=2]

`--schedules` takes files that `batchgen calibrate` wrote, each with policy = "schedule" and as the
start of "multistep". `--square` leaves out all sizes but 128×128.

With `--guided`, every picture has a negative prompt that contradicts some of them, and `true_cfg`
2.5.

Held-out prompts in all three sizes, 28 steps, fp32, groups of 8, against the same engine without a
cache. PSNR and SSIM say how far the pictures are from those. The judge
(`tests/support/scene_judge.py`) says whether they show what the prompts ask for, which is another
question: it hardly notices what PSNR sees. Speed is pictures per second of CPU time on one thread
(text, denoising, decoding): other work on the machine disturbs it little. Target: at least 78% of
the steps skipped at 47 dB mean and 40 dB worst, on 32 prompts or more.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from batchgen.engine.build import build_engine
from batchgen.engine.cache import make_policy
from batchgen.engine.cache.policy import SKIPPED
from batchgen.engine.torch_engine import TorchEngine
from batchgen.fidelity import Pixels, psnr, ssim
from batchgen.manifest import Picture
from batchgen.model.checkpoint import resolve
from batchgen.planning.plan import groups
from batchgen.planning.schedule_file import with_classes
from batchgen.settings.job import Cache, load_job
from benchmarks.held_out import TEXT_TOKENS, held_out
from tests.support.scene_judge import judge, shares
from training.scenes import SIZES, Scene

TARGET = {"skipped": 0.78, "mean_db": 47.0, "worst_db": 40.0}
LEAST_PICTURES = 32


@dataclass
class Painted:
    """What one setting made of the prompts."""

    pixels: dict[int, Pixels] = field(default_factory=dict)  # by key
    skipped: list[float] = field(default_factory=list)  # share of each picture's steps
    cpu_s: float = 0.0


def paint(engine: TorchEngine, pictures: Sequence[Picture]) -> Painted:
    painted, begin = Painted(), time.process_time()
    for group in groups(pictures, 8):
        denoised = engine.denoise(group)
        pixels, _ = engine.decode(denoised)
        painted.pixels |= {picture.key: image for picture, image in zip(group, pixels, strict=True)}
        painted.skipped += [
            trace.skipped.count(SKIPPED) / len(trace.skipped) for trace in denoised.traces
        ]
    painted.cpu_s = time.process_time() - begin
    return painted


def line(
    cache: Cache, painted: Painted, plain: Painted, scenes: Sequence[Scene]
) -> tuple[str, bool]:
    """A row of the table, and whether it meets the target."""
    keys = sorted(plain.pixels)
    decibels = [psnr(plain.pixels[key], painted.pixels[key]) for key in keys]
    likeness = [ssim(plain.pixels[key], painted.pixels[key]) for key in keys]
    right = shares(judge(painted.pixels[key], scenes[key]) for key in keys)["wholly"]
    skipped, rate = float(np.mean(painted.skipped or 0.0)), len(keys) / painted.cpu_s
    setting, quality = "none | ", " | "
    if cache.policy != "none":
        first = f"`first_block` {cache.threshold:g} | {cache.taylor_order}"
        setting = f"`multistep` {cache.tolerance:g} | " if cache.policy == "multistep" else first
        if cache.classes:
            counts = sorted({len(one.computed) for one in cache.classes})
            setting = f"`{cache.policy}` of {counts} | "
        db, alike = (
            f"{np.mean(decibels):.1f} / {min(decibels):.1f}",
            f"{np.mean(likeness):.4f} / {min(likeness):.4f}",
        )
        quality = f"{db} | {alike}"
    met = (
        skipped >= TARGET["skipped"]
        and np.mean(decibels) >= TARGET["mean_db"]
        and min(decibels) >= TARGET["worst_db"]
    )
    speed = f"{rate:.2f} | {plain.cpu_s / painted.cpu_s:.2f}"
    return f"| {setting} | {skipped:.1%} | {quality} | {right:.0%} | {speed} |", bool(met)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--tolerances", type=float, nargs="*", default=[0.005, 0.01, 0.02])
    parser.add_argument("--guided", action="store_true")
    parser.add_argument("--square", action="store_true")
    parser.add_argument("--schedules", nargs="*", default=[])
    parser.add_argument(
        "--thresholds", type=float, nargs="*", default=[0.1, 0.2, 0.3, 0.35, 0.4, 0.5]
    )
    parser.add_argument("--orders", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        help="of the job, e.g. engine.threads=2",
    )
    given = parser.parse_args()
    job = load_job(
        None, ["engine.device=cpu", f"model.max_sequence_length={TEXT_TOKENS}", *given.settings]
    )
    checkpoint, sizes = resolve(job.model), ((128, 128),) if given.square else SIZES
    chosen = held_out(given.pictures, sizes, steps=given.steps)
    engine, pictures, scenes = (
        build_engine(job, checkpoint),
        [picture for picture, _ in chosen],
        [scene for _, scene in chosen],
    )
    if given.guided:
        guidance = {"negative_prompt": "three green stars on a white background", "true_cfg": 2.5}
        pictures = [replace(picture, **guidance) for picture in pictures]
    caches = [Cache(policy="multistep", tolerance=tolerance) for tolerance in given.tolerances]
    caches += [
        Cache(policy="first_block", threshold=threshold, taylor_order=order)
        for order in given.orders
        for threshold in given.thresholds
    ]
    for path, policy in product(given.schedules, ("schedule", "multistep")):
        cache = Cache(policy=policy, schedule=path)
        caches.append(with_classes(job.model_copy(update={"cache": cache}), checkpoint).cache)
    print(
        "| policy | order | skipped | PSNR mean / worst, dB | SSIM mean / worst "
        "| wholly right | pictures/s | × |"
    )
    print("|---|---|---|---|---|---|---|---|")
    paint(engine, pictures[:8])  # warm
    plain, best = None, ""
    for cache in [Cache(), *caches]:
        engine.policy = make_policy(cache, checkpoint.family, len(engine.family.blocks))
        painted = paint(engine, pictures)
        plain = plain or painted
        text, met = line(cache, painted, plain, scenes)
        print(text, flush=True)
        best = best or (text if met else "")
    enough = given.pictures >= LEAST_PICTURES
    print(
        f"\ntarget {TARGET}: "
        f"{'met' if best and enough else 'met, but with too few pictures' if best else 'NOT met'}"
    )


if __name__ == "__main__":
    main()
