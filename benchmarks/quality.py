"""What skipping steps costs and brings, on the embedded model: every policy at several settings.

    python -m benchmarks.quality [--pictures 48] [--steps 4 8 28 50] [--guided]
                                 [--try POLICY=VALUE,… …] [--square] [--set engine.threads=2]

Held-out prompts in all three sizes, fp32, groups of 8, against the same engine without a cache; a
table for each number of steps. With `--guided`, every picture has a negative prompt, which
contradicts some of them, and `true_cfg` 2.5. A schedule is written for 28 steps, its computed steps
joined by "+"; for other numbers of steps it is stretched. `schedule=FILE.json` and
`multistep=FILE.json` take a file of `batchgen calibrate`. `--square`: all pictures are 128×128.

PSNR and SSIM say how far the pictures are from those without a cache. The judge
(`tests/support/scene_judge.py`) says whether they show what the prompts ask for, which is another
question: it hardly notices what PSNR sees. Speed is pictures per second of CPU time on one thread
(text, denoising, decoding): other work on the machine disturbs it little.

For 28 steps the last lines say which goals are met. A goal is a PSNR, mean and worst, at so many
computed steps in the mean.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from batchgen.engine.build import build_engine
from batchgen.engine.cache import make_policy
from batchgen.engine.cache.policy import COMPUTED
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

TRIED = (
    "multistep=0.0125,0.025,0.05,0.1,0.2,0.4",
    "first_block=0.2,0.3,0.4",
    "teacache=0.4,0.8",
    "adacache=0.02,0.04",
    "schedule=0+16+22+26,0+11+19+23+26,0+9+16+21+24+26",
)
GUIDED = (
    "multistep=0.025,0.05,0.1,0.2,0.4",
    "first_block=0.15,0.2,0.3",
    "teacache=0.4,0.8",
    "adacache=0.02,0.04",
    "schedule=0+5+9+13+16+19+21+23+25+26,0+7+13+18+21+24+26",
)
LEAST_PICTURES = 40


@dataclass(frozen=True)
class Goal:
    """A quality to be kept at so few computed steps, by one policy or by any."""

    guided: bool
    policy: str
    computed: float
    mean_db: float
    worst_db: float

    def __str__(self) -> str:
        who = f"`{self.policy}`" if self.policy else "any policy"
        return f"{who}, {self.computed:g} computed: {self.mean_db:g} / {self.worst_db:g} dB"


GOALS = (
    Goal(guided=False, policy="", computed=4.0, mean_db=49.0, worst_db=41.0),
    Goal(guided=False, policy="", computed=5.0, mean_db=56.0, worst_db=47.0),
    Goal(guided=False, policy="multistep", computed=7.2, mean_db=59.0, worst_db=52.0),
    Goal(guided=True, policy="multistep", computed=10.3, mean_db=56.0, worst_db=51.0),
)


@dataclass
class Painted:
    """What one setting made of the prompts."""

    pixels: dict[int, Pixels] = field(default_factory=dict)  # by key
    computed: list[int] = field(default_factory=list)  # steps of each picture
    cpu_s: float = 0.0


@dataclass(frozen=True)
class Row:
    """A setting's line in the table. Fidelity is against the pictures without a cache."""

    policy: str
    computed: float  # steps, the mean of the pictures
    psnr_db: tuple[float, float]  # mean, worst
    ssim: tuple[float, float]
    right: float  # the share of pictures that show what their prompt asks for
    rate: float  # pictures per CPU second
    times: float  # faster than without a cache

    def meets(self, goal: Goal) -> bool:
        """Whether this reaches a goal."""
        mean_db, worst_db = self.psnr_db
        enough = mean_db >= goal.mean_db and worst_db >= goal.worst_db
        return enough and self.computed <= goal.computed and goal.policy in ("", self.policy)

    def line(self, name: str) -> str:
        """As Markdown."""
        quality = " | "
        if self.policy != "none":
            decibels = f"{self.psnr_db[0]:.1f} / {self.psnr_db[1]:.1f}"
            quality = f"{decibels} | {self.ssim[0]:.4f} / {self.ssim[1]:.4f}"
        speed = f"{self.rate:.2f} | {self.times:.2f}"
        return f"| {name} | {self.computed:.1f} | {quality} | {self.right:.0%} | {speed} |"


def settings(tried: Sequence[str], steps: int) -> list[tuple[str, Cache]]:
    """Names and settings from words like "multistep=0.01,0.02"; without a cache first."""
    found = [("none", Cache())]
    for words in tried:
        policy, _, values = words.partition("=")
        for value in values.split(","):
            section: dict[str, object] = {"policy": policy}
            name = f"`{policy}` {value}"
            if value.endswith(".json"):
                section["schedule"] = value
            elif policy == "schedule":
                computed = stretched([int(step) for step in value.split("+")], steps)
                section["skip"] = [step for step in range(steps) if step not in computed]
                name = f"`schedule` [{' '.join(map(str, computed))}]"
            else:
                section["tolerance" if policy == "multistep" else "threshold"] = float(value)
            if policy != "schedule" or section.get("skip") or section.get("schedule"):
                found.append((name, Cache.model_validate(section)))
    return list(dict(found).items())


def stretched(computed: Sequence[int], steps: int) -> list[int]:
    """The computed steps of 28, as those of another number of steps."""
    return sorted({round(step * (steps - 1) / 27) for step in computed})


def paint(engine: TorchEngine, pictures: Sequence[Picture]) -> Painted:
    """Make the pictures in groups of 8, in one thread."""
    painted, begin = Painted(), time.process_time()
    for group in groups(pictures, 8):
        denoised = engine.denoise(group)
        pixels, _ = engine.decode(denoised)
        painted.pixels |= {picture.key: image for picture, image in zip(group, pixels, strict=True)}
        painted.computed += [trace.skipped.count(COMPUTED) for trace in denoised.traces]
    painted.cpu_s = time.process_time() - begin
    return painted


def row(policy: str, painted: Painted, plain: Painted, scenes: Sequence[Scene], steps: int) -> Row:
    """What a setting came to."""
    keys = sorted(plain.pixels)
    decibels = [psnr(plain.pixels[key], painted.pixels[key]) for key in keys]
    likeness = [ssim(plain.pixels[key], painted.pixels[key]) for key in keys]
    return Row(
        policy,
        float(np.mean(painted.computed or steps)),
        (float(np.mean(decibels)), min(decibels)),
        (float(np.mean(likeness)), min(likeness)),
        shares(judge(painted.pixels[key], scenes[key]) for key in keys)["wholly"],
        len(keys) / painted.cpu_s,
        plain.cpu_s / painted.cpu_s,
    )


def main() -> None:
    given = _arguments()
    job = load_job(
        None, ["engine.device=cpu", f"model.max_sequence_length={TEXT_TOKENS}", *given.settings]
    )
    checkpoint = resolve(job.model)
    engine = build_engine(job, checkpoint)
    sizes = ((128, 128),) if given.square else SIZES
    for steps in given.steps:
        chosen = held_out(given.pictures, sizes, steps=steps)
        pictures, scenes = [picture for picture, _ in chosen], [scene for _, scene in chosen]
        if given.guided:
            negative = "three green stars on a white background"
            pictures = [replace(one, negative_prompt=negative, true_cfg=2.5) for one in pictures]
        print(f"\n{given.pictures} pictures, {steps} steps{', guided' if given.guided else ''}\n")
        print("| | computed | PSNR mean / worst, dB | SSIM mean / worst | right | pictures/s | × |")
        print("|---|---|---|---|---|---|---|")
        paint(engine, pictures[:8])  # warm
        plain, rows = None, []
        for name, cache in settings(given.tried or (GUIDED if given.guided else TRIED), steps):
            if cache.schedule:
                asked = job.model_copy(update={"cache": cache})
                cache = with_classes(asked, checkpoint).cache
            engine.policy = make_policy(cache, checkpoint.family, len(engine.family.blocks))
            painted = paint(engine, pictures)
            plain = plain or painted
            rows.append(row(cache.policy, painted, plain, scenes, steps))
            print(rows[-1].line(name), flush=True)
        if steps == 28:
            judge_goals(rows, given.pictures, guided=given.guided)


def judge_goals(rows: Sequence[Row], pictures: int, *, guided: bool) -> None:
    """Print which goals are met."""
    print()
    few = "" if pictures >= LEAST_PICTURES else f", by fewer than {LEAST_PICTURES} pictures"
    for goal in GOALS:
        if goal.guided == guided:
            met = any(one.meets(goal) for one in rows)
            print(f"goal {goal}: {f'met{few}' if met else 'NOT met'}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=48)
    parser.add_argument("--steps", type=int, nargs="+", default=[28])
    parser.add_argument("--guided", action="store_true")
    parser.add_argument("--square", action="store_true")
    parser.add_argument("--try", nargs="+", default=(), dest="tried", metavar="POLICY=VALUE,…")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        help="of the job, e.g. engine.threads=2",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
