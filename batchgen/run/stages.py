"""What a worker is doing and what it has made so far: for people only, no picture depends on it.

It stands in the `.stage` file beside the worker's own (submissions.py), a line of JSON. The file's
last change is the worker's last sign of life.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path

from batchgen import durable
from batchgen.checked_json import parse
from batchgen.run.state_file import read_words

# Failed pictures that are noted, the last ones, and how much of their prompts.
FAILURES = 3
PROMPT = 80


@dataclass(frozen=True, slots=True)
class Failure:
    """A picture that failed."""

    key: int
    cause: str
    # Its beginning.
    prompt: str
    # Seconds since the epoch.
    at: float


@dataclass(frozen=True, slots=True)
class Stage:
    """What a worker does, and what its process has made."""

    # "loading the model", "denoising", …
    text: str = "starting"
    # How far it is: "group 3 of 12".
    detail: str = ""
    # With its numerics; "" until the engine is made.
    device: str = ""
    # The shard that it works on, if any.
    shard: int | None = None
    # Pictures of the group that it denoises; 0 in other stages.
    group: int = 0
    # Pictures that it wrote, failed ones too.
    pictures: int = 0
    # Seconds from the start of its first group to the last picture, without waits for work.
    making_s: float = 0.0
    # Pictures that failed last, the latest at the end.
    failures: tuple[Failure, ...] = ()

    @property
    def words(self) -> str:
        """`denoising group 3 of 12`."""
        return f"{self.text} {self.detail}".strip()


class Notes:
    """What a worker notes of itself while it works."""

    def __init__(self, member: Path | None) -> None:
        """:param member: the file with which the worker joined; None notes nothing."""
        self.path = member and stage_file(member)
        self._member = member
        self._stage = Stage()
        # When the time that counts as making began, on the monotonic clock; None while it waits.
        self._since: float | None = None

    def enter(self, text: str, detail: str = "") -> None:
        """Say what the worker does from now on."""
        self._write(replace(self._stage, text=text, detail=detail, group=0))

    def name_device(self, device: str) -> None:
        """Say on which device the engine was made."""
        self._stage = replace(self._stage, device=device)

    def begin_group(self, shard: int, number: int, groups: int, pictures: int) -> None:
        """Say that a group of so many pictures is denoised, and which one of its shard's groups."""
        self._since = self._since or time.monotonic()
        detail = f"group {number} of {groups}"
        stage = replace(self._stage, text="denoising", detail=detail, shard=shard, group=pictures)
        self._write(stage)

    def wrote(self, pictures: int, failures: Iterable[Failure] = ()) -> None:
        """Count a group that was written."""
        now, old = time.monotonic(), self._stage
        stage = replace(
            old,
            pictures=old.pictures + pictures,
            making_s=old.making_s + now - (self._since or now),
            failures=(*old.failures, *failures)[-FAILURES:],
        )
        self._since = now
        self._write(stage)
        if self._member:
            self._member.with_suffix(".made").touch()

    def wait(self, text: str) -> None:
        """Say that the worker waits for work. The time does not count as making."""
        self._since = None
        self._write(replace(self._stage, text=text, detail="", shard=None, group=0))

    def _write(self, stage: Stage) -> None:
        """Write one line over the one before, so that a reader finds the old one or the new one."""
        self._stage = stage
        if self.path is None:
            return
        line = json.dumps(asdict(stage), ensure_ascii=False).encode(errors="replace") + b"\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT, durable.SHARED)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            durable.append(file, line)
            file.truncate()


def failure_of(key: int, cause: str, prompt: str) -> Failure:
    """A picture that failed now."""
    start = " ".join(prompt[: 2 * PROMPT].split())
    return Failure(
        key, cause, f"{start[: PROMPT - 1]}…" if len(start) > PROMPT else start, time.time()
    )


def stage_file(member: Path) -> Path:
    """Where a process says what it does."""
    return member.with_suffix(".stage")


def read_stage(member: Path) -> tuple[Stage, float] | None:
    """What the process that joined as `member` last noted, and how many seconds ago.

    :return: None if it has noted nothing.
    """
    path = stage_file(member)
    try:
        changed_ns = path.stat().st_mtime_ns
    except FileNotFoundError:
        return None
    return _read(path, changed_ns), max(time.time() - changed_ns / 1e9, 0.0)


@lru_cache(maxsize=4096)
def _read(path: Path, changed_ns: int) -> Stage:  # noqa: ARG001 - a changed file is read anew
    """A note. Whoever looks again and again opens only the files that have changed."""
    words = read_words(path)
    try:
        return parse(Stage, json.loads(words.partition("\n")[0]))
    except (ValueError, TypeError):  # damaged, or of an older version: words alone
        return Stage(" ".join(words.split())[:PROMPT] or "starting")
