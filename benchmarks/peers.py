"""batchgen against its peers on the embedded model, end to end with JPEG and tar: 128 px, 28 steps,
fp32.

    python -m benchmarks.peers [--compile] [--pictures 40] [--rounds 2] [--groups 1 8]
    [--try WHO.CACHE=VALUE,… …] [--json FILE] [--plot docs/quality-speed.svg]

Contenders (`contenders.py`) live in a process each, on the same core, with one thread, which is
what makes most pictures an hour on a machine full of them. They take turns: in every round each
paints the same pictures once in every setting while the others wait. Before the first round each
paints a few in every setting: kernels, caches and compilers warm up. The reference of a contender's
PSNR are its own uncached pictures, in the same groups and compiled alike.

Without a cache and in groups of 1, diffusers is the script that a user would write, run once a core
by a job array; it is also measured with two threads on two cores.

Prints every setting, then the quickest ones that are good enough, then batchgen against the best
settings of each peer at equal quality. Needs `pip install batchgen[bench]`. It should take about a
quarter of an hour where nothing else runs, and some 40 minutes with `--compile`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from batchgen.engine.device import choose_device
from batchgen.fidelity import psnr
from batchgen.manifest import Picture
from batchgen.model import TINY
from batchgen.model.checkpoint import resolve
from batchgen.settings.job import parse_job
from benchmarks.contenders import Batchgen, CacheDit, Contender, Diffusers, Result, Skip
from benchmarks.held_out import TEXT_TOKENS, held_out
from benchmarks.peer_caches import INSIDE_BLOCKS
from benchmarks.peer_report import UNCACHED, WHO, Row, Way, at_equal_quality, at_floors, plot, table

SIZE = (128, 128)  # px
# What is tried unless `--try` says otherwise: values, or computed steps joined by "+".
FIVE, SIX, SEVEN = "0+11+19+23+26", "0+9+16+21+24+26", "0+7+13+18+22+25+27"
TRIED = (
    "diffusers.FirstBlockCache=0.2,0.3,0.4",
    "diffusers.MagCache=0.05,0.1,0.4",
    "diffusers.TaylorSeer=4",
    "diffusers.TaylorSeer lite=2,3,4,5,7",
    "diffusers.PyramidAttentionBroadcast=2",
    "diffusers.FasterCache=2",
    "cache-dit.DBCache=0.2,0.3",
    "cache-dit.TaylorSeer=0.2,0.3,0.4,0.5,0.6",
    f"cache-dit.TaylorSeer={FIVE},{SEVEN}",
    "cache-dit.FoCa=0.2,0.3",
    "cache-dit.DMD=0.3,0.5",
    "batchgen.multistep=0.025,0.05,0.1,0.2,0.4",
    "batchgen.first_block=0.2,0.3,0.4",
    f"batchgen.schedule=0+16+22+26,{FIVE},{SIX},{SEVEN}",
)


def settings(tried: Sequence[str]) -> dict[str, list[Skip]]:
    """What each contender tries, from words like "batchgen.multistep=0.01,0.02"."""
    found: dict[str, list[Skip]] = {}
    for words in tried:
        name, _, values = words.partition("=")
        who, _, how = name.partition(".")
        if who not in WHO or not how or not values:
            raise SystemExit(f"--try {words}: expected WHO.CACHE=VALUE,…; WHO is one of {WHO}")
        for value in values.split(","):
            steps = tuple(map(int, value.split("+"))) if "+" in value else ()
            found.setdefault(who, []).append(Skip(how, 0.0 if steps else float(value), steps))
    return found


def plan(
    tried: Mapping[str, Sequence[Skip]], groups: Sequence[int], *, compiled: bool
) -> dict[Way, list[Row]]:
    """Every contender, in every setting that it can have; without a cache first."""
    rows = {}
    for mode in (False, True) if compiled else (False,):
        for who in tried:
            for group in groups:
                way = Way(who, group, mode)
                hooked = INSIDE_BLOCKS if who == "diffusers" and mode else ()
                fitting = [skip for skip in tried[who] if skip.how not in hooked]
                rows[way] = [Row(way, skip) for skip in (UNCACHED, *fitting)]
    script = Way("diffusers", 1, compiled=False)
    if script in rows and len(os.sched_getaffinity(0)) > 1:
        both = Way("diffusers", 1, compiled=False, threads=2)
        rows[both] = [Row(both, UNCACHED)]
    return rows


def make(way: Way) -> Contender:
    """The contender, on the CPU."""
    tree = {
        "model": {"path": "tiny", "max_sequence_length": TEXT_TOKENS},
        "engine": {"device": "cpu", "batch_size": way.group, "threads": way.threads},
        "compile": {"mode": "default" if way.compiled else "none"},
    }
    job = parse_job(tree, "benchmarks/peers.py")
    if way.who == "batchgen":
        return Batchgen(job, resolve(job.model), [SIZE])
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(TINY, dtype=torch.float32)
    kind = CacheDit if way.who == "cache-dit" else Diffusers
    mode = "default" if way.compiled else "none"
    return kind(pipeline, choose_device(job.engine), TEXT_TOKENS, way.group, mode)


def serve(pipe: Any, way: Way) -> None:
    """Be a contender: answer (setting, pictures) with a `Result`, or with what went wrong, until
    None comes.
    """
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: way.threads])
    logging.disable(logging.WARNING)
    try:
        contender = make(way)
        while ask := pipe.recv():
            skip, pictures = ask
            with tempfile.TemporaryDirectory(prefix="batchgen-peers-") as folder:
                contender.use(skip, pictures[0])
                pipe.send(contender.run(pictures, Path(folder) / "run"))
    except EOFError:  # the one who asked has ended
        return
    except Exception:  # noqa: BLE001 - it is told by the one who asked
        pipe.send(traceback.format_exc())


@contextlib.contextmanager
def processes(ways: Sequence[Way]) -> Iterator[dict[Way, Any]]:
    """A pipe to each contender's process, all of them waiting."""
    context = multiprocessing.get_context("forkserver")
    # Importing takes seconds, and should not be paid a dozen times.
    context.set_forkserver_preload(["benchmarks.contenders"])
    pipes, children = {}, []
    for way in ways:
        pipes[way], theirs = context.Pipe()
        children.append(context.Process(target=serve, args=(theirs, way), daemon=True))
        children[-1].start()
        theirs.close()  # so that a process that ends without an answer is noticed
    yield pipes
    for pipe, child in zip(pipes.values(), children, strict=True):
        with contextlib.suppress(BrokenPipeError):
            pipe.send(None)
        child.join()


def compare(rows: Mapping[Way, Sequence[Row]], painted: Sequence[Picture], rounds: int) -> None:
    """All contenders in all their settings, `rounds` times; filled into the rows."""
    uncached: dict[Way, Result] = {}
    with processes(list(rows)) as pipes:
        for way in rows:
            for row in rows[way]:
                ask(pipes[way], row, painted[: way.group])
        for number in range(rounds):
            for way in rows:
                for row in rows[way]:
                    result = ask(pipes[way], row, painted)
                    row.rates.append(len(painted) / result.wall_s)
                    row.cpu_s.append(result.cpu_s / len(painted))
                    if number == 0:
                        judge(row, result, uncached.setdefault(way, result))
            print(f"round {number + 1} of {rounds}", flush=True)


def ask(pipe: Any, row: Row, pictures: Sequence[Picture]) -> Result:
    """What a contender's process answers."""
    pipe.send((row.skip, pictures))
    answer = pipe.recv()
    if not isinstance(answer, Result):
        raise SystemExit(f"{row.way}, {row.skip}:\n{answer}")
    return answer


def judge(row: Row, result: Result, uncached: Result) -> None:
    """How good a setting's pictures are."""
    decibels = [psnr(uncached.pixels[key], image) for key, image in result.pixels.items()]
    row.mean_db, row.worst_db = float(np.mean(decibels)), min(decibels)
    row.skipped = result.skipped


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=40, help="a multiple of the largest group")
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--groups", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--compile", action="store_true", help="each also compiled: minutes more")
    parser.add_argument(
        "--try",
        nargs="+",
        default=TRIED,
        dest="tried",
        metavar="WHO.CACHE=VALUE,…",
        help='only these settings; computed steps are joined by "+"',
    )
    parser.add_argument("--json", type=Path, help="a line a row, appended")
    parser.add_argument("--plot", type=Path, help="quality against speed, as SVG")
    given = parser.parse_args()
    chosen = held_out(given.pictures, sizes=(SIZE,), steps=given.steps)
    planned = plan(settings(given.tried), given.groups, compiled=given.compile)
    compare(planned, [picture for picture, _ in chosen], given.rounds)
    rows = [row for some in planned.values() for row in some]
    # Without a cache cache-dit is plain diffusers.
    rows = [row for row in rows if (row.way.who, row.skip) != ("cache-dit", UNCACHED)]
    print(table(rows), at_floors(rows), at_equal_quality(rows), sep="\n\n")
    if given.json:
        with given.json.open("a") as file:
            file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)
    if given.plot:
        given.plot.write_text(plot(rows))


if __name__ == "__main__":
    main()
