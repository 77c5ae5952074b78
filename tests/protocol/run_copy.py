"""Copies of a planned run, workers on them, and the log of all that the workers did."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.planning import locate_model
from batchgen.run import create
from batchgen.settings import load_job
from tests.protocol.disk_watch import Point
from tests.protocol.driver import Spec
from tests.support import ROOT

PATIENCE_S = 600.0
_QUIET = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}


class Drivers:
    """Processes that fork workers (driver.py): one for each thread of the tests."""

    def __init__(self, *words: str) -> None:
        self._words, self._mine = words, threading.local()
        self._all: list[subprocess.Popen[str]] = []

    def start(self, spec: Spec) -> int:
        """Start a worker; its process id."""
        return self._ask(asdict(spec))

    def wait(self, pid: int) -> int:
        """Wait for a worker's end; its exit code, or the negative signal that killed it."""
        return self._ask({"wait": pid})

    def run(self, spec: Spec) -> int:
        """Start a worker and wait for its end."""
        return self.wait(self.start(spec))

    def close(self) -> None:
        """End the processes; their workers have ended."""
        for process in self._all:
            process.communicate()

    def _ask(self, request: dict[str, Any]) -> int:
        process = self._process()
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    def _process(self) -> subprocess.Popen[str]:
        if not hasattr(self._mine, "process"):
            command = [sys.executable, "-m", "tests.protocol.driver", *self._words]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self._mine.process = subprocess.Popen(
                command, text=True, cwd=ROOT, env={**os.environ, **_QUIET}, **pipes
            )
            self._all.append(self._mine.process)
        process: subprocess.Popen[str] = self._mine.process
        return process


class RunCopy:
    """A copy of a planned run, and the log of its workers' disk operations."""

    def __init__(self, template: Path, folder: Path, drivers: Drivers) -> None:
        folder.mkdir(exist_ok=True)
        self.root, self.log, self.drivers = folder / "run", folder / "log", drivers
        shutil.copytree(template, self.root)

    def spec(self, **settings: Any) -> Spec:
        return Spec(str(self.root), str(self.log), **settings)

    def work(self, **settings: Any) -> int:
        """Run one worker to its end; its exit code."""
        return self.drivers.run(self.spec(**settings))

    def start(self, **settings: Any) -> int:
        return self.drivers.start(self.spec(**settings))

    def events(self) -> list[dict[str, Any]]:
        """The log without lines that a kill tore; such a line is the last of its process."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]

    def points(self, *, of_work: bool = False) -> list[Point]:
        """Every disk operation so far; with `of_work` only those before the first worker left."""
        events = self.events()
        if of_work:
            events = events[: [event["op"] for event in events].index("left")]
        return [Point(e["op"], e["path"], e["ordinal"]) for e in events if "ordinal" in e]

    def begins(self) -> list[dict[str, int]]:
        """Every group begun so far, by whichever attempt."""
        return [event for event in self.events() if event["op"] == "begin"]

    def output(self) -> str:
        """What the workers printed last, for the message of a test that fails."""
        path = Path(f"{self.log}.out")
        return path.read_text()[-4000:] if path.exists() else ""


def shape(batch_size: int, shard: int) -> list[str]:
    """Settings of a run of small test cards."""
    size = ["sampling.width=16", "sampling.height=16"]
    groups = [f"engine.batch_size={batch_size}", f"shards.pictures={shard}"]
    return ["engine.kind=pattern", *size, *groups]


def plan(folder: Path, prompts: list[str], settings: list[str], **trial: int) -> Path:
    """Plan a run directory of one picture a prompt; `limit` or `sample` plans a trial."""
    folder.mkdir(parents=True)
    manifest = folder / "manifest.parquet"
    pq.write_table(pa.table({"prompt": prompts, "rank": range(len(prompts))}), manifest)
    create(folder / "run", [str(manifest)], *locate_model(load_job(None, settings)), **trial)
    return folder / "run"


def wait_stopped(pid: int) -> bool:
    """Whether a worker reached the point where it halts; False if it ended before."""
    until = time.time() + PATIENCE_S
    while time.time() < until:
        try:
            state = psutil.Process(pid).status()
        except psutil.NoSuchProcess:
            return False
        if state == psutil.STATUS_STOPPED:
            return True
        if state == psutil.STATUS_ZOMBIE:
            return False
        time.sleep(0.002)
    raise TimeoutError(f"worker {pid} neither halts nor ends")


def go_on(pid: int) -> None:
    """Let a halted worker continue."""
    os.kill(pid, signal.SIGCONT)
