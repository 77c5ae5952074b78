"""What a worker is doing before its first group: importing, loading, compiling. For people only.

The text stands in the `.stage` file beside the worker's own (submissions.py); the file's last
change is when the stage began.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from batchgen.run.state_file import read_words


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage, and how long it has lasted."""

    text: str
    seconds: float


def enter_stage(member: Path, text: str) -> None:
    """Say what the process that joined as `member` does from now on."""
    stage_file(member).write_text(text)


def stage_file(member: Path) -> Path:
    """Where a process says what it does. It needs the file no more once it makes groups."""
    return member.with_suffix(".stage")


def read_stage(member: Path) -> Stage | None:
    """What the process that joined as `member` last said; None if it has said nothing."""
    path = stage_file(member)
    try:
        seconds = max(time.time() - path.stat().st_mtime, 0.0)
    except FileNotFoundError:
        return None
    return Stage(read_words(path) or "starting", seconds)
