"""batchgen as a person types it, and a rehearsed run as a reader sees it."""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from batchgen.cli import app

INJECT = Path(__file__).parents[1] / "faults" / "inject"
"""On PYTHONPATH, its sitecustomize.py turns words in prompts into faults."""


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


def ask(*words: object) -> Answer:
    """Run a command in this process; an exception that is no message to the user fails the test."""
    given = CliRunner().invoke(
        app, [str(word) for word in words], catch_exceptions=False, env={"COLUMNS": "200"}
    )
    return Answer(given.exit_code, given.stdout, given.stderr)


def write_prompts(path: Path, prompts: Sequence[str], **columns: Any) -> Path:
    pq.write_table(pa.table({"prompt": list(prompts)} | columns), path)
    return path


def settings(**values: object) -> list[str]:
    """`run__workers=1` as the words `--set run.workers=1`."""
    return [
        word
        for name, value in values.items()
        for word in ("--set", f"{name.replace('__', '.')}={value}")
    ]


def rehearse(
    out: Path,
    prompts: Sequence[str],
    *words: str,
    faults: dict[str, str] | None = None,
    **values: object,
) -> Answer:
    """Submit prompts to the pattern engine with groups of four, one worker, and faults in it."""
    file = out.with_name(f"{out.name}-prompts.parquet")
    if not file.exists():
        write_prompts(file, prompts)
    with faulty(**(faults or {})):
        chosen = {"run__workers": 1, "engine__batch_size": 4} | values
        return ask("submit", file, "--rehearse", "--out", out, *words, *settings(**chosen))


def faulty(**faults: str) -> Any:
    """A context in which submitted workers obey the faults in prompts and these variables."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", str(INJECT), prepend=os.pathsep)
    for name, value in faults.items():
        patch.setenv(name, value)
    return _Undone(patch)


class _Undone:
    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._patch.undo()


def status(run: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(ask("status", run, "--json").out)
    return told


def records(run: Path) -> list[dict[str, Any]]:
    """The published records, by key."""
    rows = [
        row
        for path in sorted(run.glob("metadata/*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    return sorted(rows, key=lambda row: int(row["index"]))


def owners(run: Path, role: str) -> list[int]:
    """Process ids of the supervisors or workers that ever registered, oldest first."""
    files = sorted(
        run.glob(f".batchgen/jobs/*/{role}*.json"), key=lambda path: path.stat().st_mtime_ns
    )
    return [int(json.loads(path.read_bytes())["pid"]) for path in files]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def wait_until(true: Callable[[], bool]) -> None:
    """Until it is true; a minute of waiting fails the test."""
    end = time.time() + 60
    while not true():
        assert time.time() < end, "nothing happened for a minute"
        time.sleep(0.1)
