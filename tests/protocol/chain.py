"""A run that goes on through every kind of generation, and what is right after each.

    a trial of the first pictures → its rest → failures again → more rows → pictures made once more
    a trial of a sample → its rest

Each step's undisturbed result is where the next step's trials begin.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from tests.protocol import recount
from tests.protocol.disk_watch import Point
from tests.protocol.driver import UNPAINTABLE
from tests.protocol.planned_run import wrong_trials
from tests.protocol.run_copy import Drivers, RunCopy, plan, shape

BATCH_SIZE, SHARD, ROWS, TRIAL = 2, 4, 10, 6
# So few shards in a folder that generations need new folders.
BUCKET = 2
FAILURES = {3, 7}
MORE, REMADE = 3, (2, 3, 11)

# The first thing that a worker does to the disk: it creates a claim.
CLAIM = ("create", True)

# Of a picture: the generation that made it, its tar, its seed and what became of it.
Counted = tuple[int, str | None, int, str]


@dataclass(frozen=True)
class Step:
    """A generation, and the undisturbed run before and after it."""

    name: str
    # Its words in commands.py.
    command: tuple[str, ...]
    # Whether the pictures that failed before can be made now.
    mended: bool
    # The complete run that it begins with, and what its `status` says.
    before: Path
    status_before: dict[str, Any]
    published_before: dict[str, str]
    # Everything that it does to the disk; the first of them plan it.
    points: list[Point]
    planning: list[Point]
    # What is right when it is made.
    tars: dict[str, str]
    counted: dict[int, Counted]
    status: dict[str, Any]

    def settings(self) -> dict[str, Any]:
        """Of every worker in this step."""
        return {"mended": self.mended, "bucket": BUCKET}

    def work(self, copy: RunCopy, *, command: tuple[str, ...] | None = None, **more: Any) -> int:
        """Give a command, this step's if none is named, and work; the exit code."""
        words = self.command if command is None else command
        return copy.work(**self.settings() | {"command": words} | more)


@dataclass
class Chain:
    """All steps, and fresh copies of their runs."""

    folder: Path
    drivers: Drivers
    # A trial of the first pictures that was planned and not begun.
    planned: Path
    threads: ThreadPoolExecutor
    steps: dict[str, Step] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def copy(self, run: Path) -> RunCopy:
        with self._lock:
            number = next(self._numbers)
        return RunCopy(run, self.folder / f"{number:05d}", self.drivers)

    def wrong_trials(
        self, trials: Iterable[Any], wrong_after: Callable[[Any], list[str]]
    ) -> dict[str, list[str]]:
        """The trials that went wrong, and how."""
        return wrong_trials(self.threads, trials, wrong_after)

    def add(self, name: str, before: Path, *command: str, mended: bool = True) -> Path:
        """Make a step undisturbed, and note what is right; the run after it."""
        untouched, copy = self.copy(before), self.copy(before)
        settings = {"mended": mended, "bucket": BUCKET}
        code = copy.work(command=command, look=True, **settings)
        assert code == 0, copy.output()
        first, last = looks(copy)
        assert last["problems"] == [], last
        points = copy.points(of_work=True)
        claims = (n for n, one in enumerate(points) if (one.op, "claims" in one.path) == CLAIM)
        planned = next(claims)
        self.steps[name] = Step(
            name=name,
            command=command,
            mended=mended,
            before=before,
            status_before=first["status"],
            published_before=published(untouched.root),
            points=points,
            planning=points[:planned],
            tars=recount.tar_hashes(copy.root),
            counted=counted(copy.root),
            status=last["status"],
        )
        return copy.root


def make_chain(folder: Path, drivers: Drivers, threads: ThreadPoolExecutor) -> Chain:
    """Make every step once, undisturbed."""
    prompts = [
        UNPAINTABLE if key in FAILURES else f"a ring of {key} colours" for key in range(ROWS)
    ]
    more = folder / "more.jsonl"
    rows = ({"prompt": f"a square {key}", "rank": key} for key in range(ROWS, ROWS + MORE))
    more.write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = shape(BATCH_SIZE, SHARD)
    planned = plan(folder / "limit", prompts, small, limit=TRIAL)
    chain = Chain(folder, drivers, planned, threads)
    run = _trial(chain, chain.planned)
    run = chain.add("rest", run, "rest", mended=False)
    run = chain.add("retry", run, "retry")
    run = chain.add("extend", run, "extend", str(more))
    chain.add("remake", run, "remake", ",".join(map(str, REMADE)))
    sample = _trial(chain, plan(folder / "sample", prompts, small, sample=TRIAL))
    chain.add("rest of a sample", sample, "rest", mended=False)
    return chain


def _trial(chain: Chain, planned: Path) -> Path:
    """Make the pictures of a trial."""
    copy = chain.copy(planned)
    assert copy.work(bucket=BUCKET) == 0, copy.output()
    return copy.root


def looks(copy: RunCopy) -> list[dict[str, Any]]:
    """What people have seen of a run so far (commands.py)."""
    return [event for event in copy.events() if event["op"] == "looked"]


def published(root: Path) -> dict[str, str]:
    """The content of every published file and commit."""
    return {name: sha256 for name, (_, sha256) in recount.published(root).items()}


def last_records(root: Path) -> dict[int, dict[str, Any]]:
    """The record that counts of each picture: the latest generation's."""
    rows = sorted(recount.records(root), key=lambda row: int(row["generation"]))
    return {row["index"]: row for row in rows}


def counted(root: Path) -> dict[int, Counted]:
    """What counts of each picture, by its key."""
    return {
        key: (row["generation"], row["tar"], row["seed"], row["outcome"])
        for key, row in last_records(root).items()
    }


def generations(root: Path) -> int:
    """How many later generations a run has."""
    return len(list(root.glob(".batchgen/plan-*")))


def told(statuses: Iterable[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What of a status is the same in every run of the same pictures."""
    names = ("state", "rows", "ok", "failed", "pending", "unplanned", "shards_done", "shards")
    return [tuple(one[name] for name in names) for one in statuses]
