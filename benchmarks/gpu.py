"""The first look at a card: CUDA tests, then FLUX.1-dev at full size, random weights, in minutes.

    python -m benchmarks.gpu [--minutes 8] [--out FILE] [--commit NAME] [--only fp8 bf16]
    python -m benchmarks.gpu --small       # the same code with the embedded model's size

It takes a card of 80 GB or more, or with `--small` a CPU, and no network. Packages are used as they
are installed; what is missing is told.

1024 × 1024 px, 28 steps, 512 text tokens, one picture at a time, compiled, end to end. The rows
stand in the order of their worth. Each is a process of its own (`gpu_rows.py`) with a limit, and
imports while the row before measures. A row that fails says why, and the rest goes on; what the
minutes do not reach is told. After every row the table is written as markdown for `log.md`, and
beside it, as JSON, all numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.card import ROOT, read_facts, tell_facts

# With less time left, no row is begun.
_LEAST_S = 25.0
_COLUMNS = (
    "| | skipped | s a picture | goal (H200) | text / denoise / decode, ms | ready after, s "
    "| MHz | W | peak, GB |"
)


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table, and how it comes about."""

    # As `gpu_rows.py` knows it.
    name: str
    told: str
    limit_s: float
    # Of a picture of full size, on an H200.
    goal_s: float | None = None


ROWS = (
    Row("tests", "CUDA tests", 100),
    # Compiles; what it compiles serves the next two.
    Row("fp8", "batchgen FP8", 200, 2.4),
    Row("fp8-75", "batchgen FP8, ¾ of the steps skipped", 90, 0.8),
    Row("fp8-50", "batchgen FP8, half of the steps skipped", 90, 1.3),
    Row("bf16", "batchgen bf16", 200, 3.3),
    Row("diffusers", "diffusers bf16", 150),
    Row("klein", "batchgen bf16, FLUX.2 klein 4B, 4 steps", 120),
    Row("cache-dit", "cache-dit FP8, half of the steps skipped", 150),
)


class Process:
    """A row's process. It imports at once, and measures when it is told."""

    def __init__(self, row: Row, folder: Path, options: Sequence[str]) -> None:
        """:param options: of `gpu_rows.py`."""
        self.row, self._log = row, folder / f"{row.name}.log"
        command = [sys.executable, "-m"]
        if row.name == "tests":
            command += ["pytest", "-q", "-m", "cuda", "tests/engine", "-p", "no:cacheprovider"]
        else:
            command += ["benchmarks.gpu_rows", row.name, str(folder), *options]
        with self._log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                # It ends together with the processes that compile for it.
                start_new_session=True,
            )

    def measure(self, limit_s: float) -> dict[str, Any]:
        """What the row says: its numbers, or `cannot` and why."""
        try:
            printed, _ = self._process.communicate("begin\n", timeout=limit_s)
        except subprocess.TimeoutExpired:
            self.end()
            return {"cannot": f"stopped after {limit_s:.0f} s. {self._last_words()}".strip()}
        lines = printed.strip().splitlines() or [""]
        ended = f"status {self._process.returncode}"
        if self.row.name == "tests":
            if self._process.returncode == 0:
                return {"said": lines[-1]}
            failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
            return {"cannot": "; ".join(filter(None, (ended, *failed, self._last_words())))}
        if self._process.returncode == 0 and lines[-1].startswith("{"):
            answer: dict[str, Any] = json.loads(lines[-1])
            return answer
        return {"cannot": f"{ended}: {self._last_words()}"}

    def _last_words(self) -> str:
        """The last line that says anything: of a traceback, the error."""
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line]
        return " ".join(lines[-1].split())[:300] if lines else ""

    def end(self) -> None:
        """Whatever it is doing."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


def run(
    rows: Sequence[Row], folder: Path, options: Sequence[str], deadline: float
) -> Iterator[dict[str, Any]]:
    """What every row says, in order.

    :param deadline: on the clock of `time.monotonic`.
    """
    waiting: list[Process] = []
    try:
        for number, row in enumerate(rows):
            left = deadline - time.monotonic()
            line: dict[str, Any] = {"row": row.name, "told": row.told}
            if "--small" not in options:
                line["goal_s"] = row.goal_s
            if left < _LEAST_S:
                yield line | {"cannot": f"left out: {max(left, 0):.0f} s were left"}
                continue
            begin = len(waiting)
            waiting += [Process(each, folder, options) for each in rows[begin : number + 2]]
            yield line | waiting[number].measure(min(row.limit_s, left))
    finally:
        for process in waiting:
            process.end()


def make_table(facts: dict[str, Any], lines: Sequence[dict[str, Any]]) -> str:
    """Markdown: the facts, the measured rows, and what the others say."""
    measured = [line for line in lines if "picture_s" in line]
    what = "nothing was measured"
    if measured:
        side, steps, device = (measured[0][key] for key in ("side_px", "steps", "device"))
        what = f"{side} × {side} px, {steps} steps, {device}"
    text = [f"**FLUX.1, random weights: {what}.** {tell_facts(facts)}", ""]
    if measured:
        rule = "|" + "---|" * (_COLUMNS.count(" | ") + 1)
        text += [_COLUMNS, rule, *map(_cells, measured), ""]
    text += [
        f"- {line['told']}: {line.get('said') or line.get('cannot')}"
        for line in lines
        if "picture_s" not in line
    ]
    return "\n".join(text) + "\n"


def _cells(line: dict[str, Any]) -> str:
    stages = " / ".join(
        f"{line[stage] * 1000:.0f}" for stage in ("text_s", "denoise_s", "decode_s")
    )
    goal, peak = line.get("goal_s"), line["peak_bytes"]
    cells = (
        line["told"],
        f"{line['skipped']:.0%}",
        f"{line['picture_s']:.3f}",
        f"≤ {goal}" if goal else "",
        stages,
        f"{line['ready_s']:.0f}",
        f"{line['mhz']:.0f}" if line["mhz"] else "",
        f"{line['watts']:.0f}" if line["watts"] else "",
        f"{peak / 1e9:.1f}" if peak else "",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [row.name for row in ROWS]
    parser.add_argument("--minutes", type=float, default=8, help="it ends before these are over")
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="rows")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / "gpu.md", help="the table"
    )
    parser.add_argument("--commit", default="", help="where git cannot be asked")
    parser.add_argument("--small", action="store_true", help="the embedded model's size")
    parser.add_argument("--compile", help="mode of torch.compile; with --small none unless given")
    parser.add_argument("--work", type=Path, help="folder for compiled code, which is kept there")
    given = parser.parse_args()
    # Rows' processes are in sessions of their own, and must not outlive this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    # What is left of the last seconds is for ending processes.
    deadline = time.monotonic() + given.minutes * 60 - 5
    options = ["--small"] if given.small else []
    options += ["--compile", given.compile] if given.compile else []
    facts = read_facts(given.commit)
    print(tell_facts(facts), flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="batchgen-gpu-", ignore_cleanup_errors=True) as folder:
        work = (given.work or Path(folder)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        for line in run([row for row in ROWS if row.name in given.only], work, options, deadline):
            lines.append(line)
            print(json.dumps(line, ensure_ascii=False), flush=True)
            given.out.write_text(make_table(facts, lines))
            everything = json.dumps({"facts": facts, "rows": lines}, indent=1, ensure_ascii=False)
            given.out.with_suffix(".json").write_text(everything)
    print("", make_table(facts, lines), sep="\n")


if __name__ == "__main__":
    main()
