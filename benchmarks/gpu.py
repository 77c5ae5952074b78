"""FLUX.1-dev at full size on a GPU, random weights: ranked rows within a time budget.

    python -m benchmarks.gpu [--budget 540] [--only fp8 stock] [--json benchmarks/gpu.jsonl]
    python -m benchmarks.gpu --small       # the same code on a CPU, in a minute

It takes a GPU of 80 GB or more.

1024 px, 28 steps, 512 text tokens, end to end: text encoding, denoising, VAE, JPEG, tar. (1)
diffusers eager, (2) compiled, (3) batchgen bf16 compiled, (4) FP8 compiled, (5) half of the steps
skipped, (6) cache-dit compiled, FP8, as many skipped, (7) groups of 4, (8) 512 px in groups of 1, 4
and 8, (9) attention kernels, (10) cold and warm start, (11) 2048 px, (12) memory.

Each session (`gpu_sessions.py`) is a process with one model. A row is a JSON line, written as soon
as it is measured; what the budget does not reach, and what this machine cannot do, is a line too,
with the reason. At the end the lines are printed as a table.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import multiprocessing
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_sessions import FULL, SESSIONS, SMALL, Line, Scale, first_picture, tell

LEAST_S = 20.0  # with less of the budget left no session is begun


def serve(pipe: Any, name: str, scale: Scale) -> None:
    """Be a session, once it is told to begin."""
    logging.disable(logging.WARNING)
    if not pipe.recv():
        return
    session, _ = SESSIONS[name]
    try:
        for line in session(scale):
            pipe.send(line)
        pipe.send(None)
    except Exception as error:  # noqa: BLE001 - a line says what happened
        traceback.print_exc()
        pipe.send(tell(error))


class Session:
    """A process that imports at once, which takes seconds, and begins when it is told."""

    def __init__(self, name: str, scale: Scale) -> None:
        self.name, self._deadline = name, scale.deadline
        # A fork after CUDA was looked at cannot use it; where there is none, it saves the imports.
        context: Any = multiprocessing.get_context(
            "spawn" if torch.cuda.is_available() else "forkserver"
        )
        if not torch.cuda.is_available():
            context.set_forkserver_preload(["gpu_sessions"])
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, name, scale), daemon=False)
        self._process.start()
        theirs.close()

    def lines(self) -> Iterator[Line]:
        """What it measures, and a line for every row that it does not."""
        _, rows = SESSIONS[self.name]
        measured = set()
        left = self._deadline - time.time()
        reason: str | None = (
            f"the budget is spent: {max(left, 0):.0f} s left, and a session needs {LEAST_S:.0f}"
        )
        if left >= LEAST_S:
            self._pipe.send(True)
            while isinstance(line := self._next(), dict):
                measured.add(line["row"])
                yield line
            reason = line
        if reason is None:
            self._process.join()
        self.end()
        yield from (
            {"row": row, "name": self.name, "cannot": reason or "not measured"}
            for row in rows
            if row not in measured
        )

    def _next(self) -> Line | str | None:
        """A line, why there will be no more, or None at the end."""
        try:
            if self._pipe.poll(max(self._deadline - time.time(), 0)):
                answer: Line | str | None = self._pipe.recv()
                return answer
        except (EOFError, OSError):
            self._process.join()
            return f"its process ended with status {self._process.exitcode}"
        return "the budget was spent before it was measured"

    def end(self) -> None:
        """Whatever it is doing."""
        self._process.terminate()
        self._process.join(10)
        self._process.kill()


def environment() -> Line:
    there = {
        package.metadata["Name"]: package.version for package in importlib.metadata.distributions()
    }
    versions = {
        name: there.get(name)
        for name in ("torch", "diffusers", "transformers", "torchao", "cache_dit")
    }
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "row": "environment",
        "name": device,
        "versions": versions,
        "python": sys.version.split()[0],
    }


def run(names: Sequence[str], scale: Scale) -> Iterator[Line]:
    """All lines. While a session measures, the next one imports."""
    yield environment()
    sessions: list[Session] = []
    try:
        for number in range(len(names)):
            sessions.extend(Session(name, scale) for name in names[len(sessions) : number + 2])
            yield from sessions[number].lines()
    finally:
        for session in sessions:
            session.end()


def table(lines: Sequence[Line]) -> str:
    """The measured rows, then ceilings and starts, then what could not be measured."""
    best: dict[str, float] = {}
    for line in lines:
        if line["row"] == "ceiling" and "tflops" in line:
            best[line["precision"]] = max(best.get(line["precision"], 0.0), line["tflops"])
    columns = (
        "px | group | skipped | s a picture | s a step | text / denoise / decode, ms"
        " | wall / device | TFLOP/s | of best | peak, GB"
    )
    text = [f"| | | {columns} |", "|" + "---|" * 12]
    for line in sorted(
        (line for line in lines if "picture_s" in line), key=lambda line: int(line["row"])
    ):
        stages = " / ".join(
            f"{line[stage] * 1000:.0f}" for stage in ("text_s", "denoise_s", "decode_s")
        )
        share = (
            f"{line['tflops'] / best[line['precision']]:.0%}" if line["precision"] in best else ""
        )
        what = " | ".join(str(line[key]) for key in ("row", "name", "side_px", "group"))
        what = f"| {what} | {line['skipped']:.0%}"
        speed = (
            f"{line['picture_s']:.3f} | {line['step_s']:.4f} | {stages}"
            f" | {line['wall_over_device']:.3f} | {line['tflops']:.3g}"
        )
        text.append(f"{what} | {speed} | {share} | {line['peak_bytes'] / 1e9:.1f} |")
    text += ["", *(f"- {_told(line)}" for line in lines if "picture_s" not in line)]
    return "\n".join(text)


def _told(line: Line) -> str:
    values = {key: value for key, value in line.items() if key not in ("row", "name")}
    told = ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in values.items()
    )
    return f"{line['row']} {line['name']}: {told}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--budget", type=float, default=540, help="seconds; the most important rows come first"
    )
    parser.add_argument(
        "--only", nargs="+", choices=SESSIONS, default=list(SESSIONS), help="sessions"
    )
    parser.add_argument(
        "--small", action="store_true", help="the embedded model's size: to see that it runs"
    )
    parser.add_argument("--compile", help="mode of torch.compile, where --small would have none")
    parser.add_argument("--json", type=Path, help="appended to")
    parser.add_argument(
        "--work",
        type=Path,
        help="folder for compiled code and, in row 10, 34 GB of weights; a temporary one if absent",
    )
    parser.add_argument("--first-picture", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.first_picture:
        print(json.dumps(first_picture(given.first_picture)))
        return
    deadline = time.time() + given.budget
    with tempfile.TemporaryDirectory(
        prefix="batchgen-gpu-", dir=given.work, ignore_cleanup_errors=True
    ) as folder:
        scale = replace(SMALL if given.small else FULL, folder=Path(folder), deadline=deadline)
        lines = []
        for line in run(given.only, replace(scale, mode=given.compile or scale.mode)):
            lines.append(line)
            print(json.dumps(line, ensure_ascii=False), flush=True)
            if given.json:
                with given.json.open("a") as file:
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
    print("", table(lines), sep="\n")


if __name__ == "__main__":
    main()
