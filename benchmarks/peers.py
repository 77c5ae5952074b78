"""batchgen against its peers on the embedded model, equal settings, one run: 128 px, 28 steps,
fp32, end to end with JPEG and tar.

    python -m benchmarks.peers [--compile] [--pictures 32] [--rounds 3] [--threads 1] [--json FILE]
    [--only batchgen]

Contenders (`contenders.py`) live in a process each, on the same core, and take turns: in every
round each paints the same pictures once in every setting while the others wait. The first round is
not counted: kernels, caches and compilers warm up in it. The reference of a contender's PSNR are
its own uncached pictures, in the same groups and compiled alike. Prints a table, then who is faster
at the same PSNR, batchgen or cache-dit. Needs `pip install batchgen[bench]`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import statistics
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from batchgen.calibration.fidelity import psnr
from batchgen.engine.device import choose_device
from batchgen.manifest import Picture
from batchgen.model import TINY
from batchgen.model.checkpoint import resolve
from batchgen.settings.job import parse_job
from benchmarks.contenders import Batchgen, CacheDit, Contender, Diffusers, Result, Skip
from benchmarks.held_out import TEXT_TOKENS, held_out

SIZE = (128, 128)  # px
UNCACHED = Skip()
WHO = ("diffusers", "cache-dit", "batchgen")


@dataclass(frozen=True, slots=True)
class Way:
    """One contender: who, in groups of how many, compiled or eager."""

    who: str
    group: int
    compiled: bool


@dataclass
class Row:
    """What a contender came to in one setting."""

    way: Way
    skip: Skip
    rates: list[float] = field(default_factory=list)  # pictures/s of each counted round
    cpu_s: list[float] = field(
        default_factory=list
    )  # a picture: what other work on the machine disturbs least
    skipped: float = 0.0  # share of the steps
    mean_db: float = 0.0  # PSNR
    worst_db: float = 0.0

    @property
    def rate(self) -> float:
        """Pictures a second, the median round."""
        return statistics.median(self.rates)


def settings(who: str, thresholds: Sequence[float], taylor: Sequence[float]) -> list[Skip]:
    """No cache, these thresholds, and where it can extrapolate those with a Taylor term of first
    order.
    """
    extrapolated = [Skip(threshold, taylor=1) for threshold in taylor] if who != "diffusers" else []
    return [UNCACHED, *map(Skip, thresholds), *extrapolated]


def make(way: Way, threads: int) -> Contender:
    tree = {
        "model": {"path": "tiny", "max_sequence_length": TEXT_TOKENS},
        "engine": {"device": "cpu", "batch_size": way.group, "threads": threads},
        "compile": {"mode": "default" if way.compiled else "none"},
    }
    job = parse_job(tree, "benchmarks/peers.py")
    if way.who == "batchgen":
        return Batchgen(job, resolve(job.model), [SIZE])
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(TINY, dtype=torch.float32)
    kind = CacheDit if way.who == "cache-dit" else Diffusers
    return kind(
        pipeline,
        choose_device(job.engine),
        TEXT_TOKENS,
        way.group,
        "default" if way.compiled else "none",
    )


def serve(pipe: Any, way: Way, threads: int) -> None:
    """Be a contender: answer (setting, pictures) with a `Result`, or with what went wrong, until
    None comes.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    logging.disable(logging.WARNING)
    try:
        contender = make(way, threads)
        while ask := pipe.recv():
            with tempfile.TemporaryDirectory(prefix="batchgen-peers-") as folder:
                contender.use(ask[0])
                pipe.send(contender.run(ask[1], Path(folder) / "run"))
    except Exception:  # noqa: BLE001 - it is told by the one who asked
        pipe.send(traceback.format_exc())


@contextlib.contextmanager
def processes(ways: Sequence[Way], threads: int) -> Iterator[dict[Way, Any]]:
    """A pipe to each contender's process, all of them waiting."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["contenders"]
    )  # importing takes seconds, and should not be paid a dozen times
    pipes, children = {}, []
    for way in ways:
        pipes[way], theirs = context.Pipe()
        children.append(context.Process(target=serve, args=(theirs, way, threads), daemon=True))
        children[-1].start()
        theirs.close()  # so that a process that ends without an answer is noticed
    yield pipes
    for pipe, child in zip(pipes.values(), children, strict=True):
        with contextlib.suppress(BrokenPipeError):
            pipe.send(None)
        child.join()


def compare(
    rows: dict[Way, list[Row]], painted: Sequence[Picture], rounds: int, threads: int
) -> None:
    """All contenders in all their settings, `rounds` times and once more before; filled into the
    rows.
    """
    uncached: dict[Way, Result] = {}
    with processes(list(rows), threads) as pipes:
        for number in range(rounds + 1):
            for way in rows:
                for row in rows[way]:
                    result = ask(pipes[way], row, painted)
                    if number:
                        row.rates.append(len(painted) / result.wall_s)
                        row.cpu_s.append(result.cpu_s / len(painted))
                    elif row.skip == UNCACHED:
                        uncached[way] = result
                    if number == 1:
                        distances = [
                            psnr(uncached[way].pixels[key], image)
                            for key, image in result.pixels.items()
                        ]
                        row.mean_db, row.worst_db, row.skipped = (
                            float(np.mean(distances)),
                            min(distances),
                            result.skipped,
                        )
            print(f"round {number} of {rounds}", flush=True)


def ask(pipe: Any, row: Row, pictures: Sequence[Picture]) -> Result:
    pipe.send((row.skip, pictures))
    answer = pipe.recv()
    if not isinstance(answer, Result):
        raise SystemExit(f"{row.way}, {row.skip}:\n{answer}")
    return answer


def table(rows: Sequence[Row]) -> str:
    alone = next(
        (
            row.rate
            for row in rows
            if row.way == Way("diffusers", 1, compiled=False) and row.skip == UNCACHED
        ),
        None,
    )
    names = (
        "| | group | | cache | skipped | PSNR mean / worst, dB "
        "| pictures/s (min–max) | × | CPU s a picture |"
    )
    lines = [names, "|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        quality = "" if row.skip == UNCACHED else f"{row.mean_db:.1f} / {row.worst_db:.1f}"
        factor = f"{row.rate / alone:.2f}" if alone else ""
        rates = f"{row.rate:.2f} ({min(row.rates):.2f}–{max(row.rates):.2f})"
        compiled = "compiled" if row.way.compiled else "eager"
        what = f"{row.way.who} | {row.way.group} | {compiled} | {row.skip} | {row.skipped:.0%}"
        lines.append(
            f"| {what} | {quality} | {rates} | {factor} | {statistics.median(row.cpu_s):.3f} |"
        )
    return "\n".join(lines)


def at_equal_quality(rows: Sequence[Row]) -> str:
    """For every setting of cache-dit: batchgen's speed at the same mean PSNR, between its own
    settings on either side.
    """
    lines = [
        "| group | | cache-dit | mean PSNR, dB | cache-dit pictures/s | batchgen pictures/s | × |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row.way.who != "cache-dit":
            continue
        ours = [
            other
            for other in rows
            if other.way == Way("batchgen", row.way.group, row.way.compiled)
            and other.skip != UNCACHED
        ]
        rate = interpolate([(other.mean_db, other.rate) for other in ours], row.mean_db)
        told = f"{rate:.2f} | {rate / row.rate:.2f}" if rate else "not measured | "
        compiled = "compiled" if row.way.compiled else "eager"
        what = f"{row.way.group} | {compiled} | {row.skip} | {row.mean_db:.1f} | {row.rate:.2f}"
        lines.append(f"| {what} | {told} |")
    return "\n".join(lines)


def interpolate(points: Sequence[tuple[float, float]], quality: float) -> float | None:
    """Speed at this quality on the line along the best settings: those that no other beats in both.
    None above the best quality.
    """
    best = sorted(
        point
        for point in points
        if not any(other[0] > point[0] and other[1] >= point[1] for other in points)
    )
    if not best or quality > best[-1][0]:
        return None
    return float(np.interp(quality, *zip(*best, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=32, help="a multiple of the largest group")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 8])
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads, and cores, of each contender"
    )
    parser.add_argument("--thresholds", type=float, nargs="*", default=[0.12, 0.2, 0.3, 0.4])
    parser.add_argument(
        "--taylor",
        type=float,
        nargs="*",
        default=[0.3, 0.4, 0.5, 0.6],
        help="thresholds with extrapolation",
    )
    parser.add_argument("--compile", action="store_true", help="each also compiled: minutes more")
    parser.add_argument("--only", nargs="+", choices=WHO, default=WHO)
    parser.add_argument("--json", type=Path, help="a line a row, appended")
    given = parser.parse_args()
    modes = (False, True) if given.compile else (False,)
    ways = [
        Way(who, group, compiled)
        for compiled in modes
        for who in given.only
        for group in given.groups
    ]
    pictures = [
        picture for picture, _ in held_out(given.pictures, sizes=(SIZE,), steps=given.steps)
    ]
    plan = {
        way: [Row(way, skip) for skip in settings(way.who, given.thresholds, given.taylor)]
        for way in ways
    }
    compare(plan, pictures, given.rounds, given.threads)
    rows = [
        row for way in ways for row in plan[way] if (way.who, row.skip) != ("cache-dit", UNCACHED)
    ]  # which is plain diffusers
    print(table(rows), at_equal_quality(rows), sep="\n\n")
    if given.json:
        with given.json.open("a") as file:
            file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)


if __name__ == "__main__":
    main()
