"""Another process, with a time limit: whatever becomes of it, this one goes on and can tell.

A driver may crash its caller, or hang it so that no signal ends it. Then the process is left
behind, and told.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# So long may an ended process take to be gone.
_GONE_S = 5.0


class NoAnswer(Exception):
    """A child did not do what it was started for; the message says why, for people."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that has ended in time."""

    # Its exit code; the negative number of the signal that ended it.
    code: int
    out: str
    err: str
    seconds: float


def call(*command: str, limit_s: float) -> Ended:
    """Run a command, and end it and all its children after `limit_s`.

    :raises NoAnswer: there is no such command, or it did not end in time.
    """
    began, name = time.monotonic(), os.path.basename(command[0])  # noqa: PTH119
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="backslashreplace",
            start_new_session=True,
        )
    except OSError as error:
        raise NoAnswer(f"{name} cannot be started: {error.strerror}") from None
    try:
        out, err = child.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        left = "" if _end(child) else "; it cannot even be killed, as when a driver hangs"
        raise NoAnswer(f"{name} did not end within {limit_s:g} s{left}") from None
    except BaseException:
        _end(child)
        raise
    return Ended(child.returncode, out, err, time.monotonic() - began)


def _end(child: subprocess.Popen[str]) -> bool:
    """Kill a process and its children; whether it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    try:
        child.communicate(timeout=_GONE_S)
    except subprocess.TimeoutExpired:
        return False
    return True


def attempt(trial: str, *words: str, limit_s: float = 60.0) -> dict[str, Any]:
    """What a trial of trial.py answers.

    :raises NoAnswer: it raised an exception, crashed, or did not end in time.
    """
    command = [sys.executable, "-P", "-m", "batchgen.doctor.trial", trial, *words]
    try:
        ended = call(*command, limit_s=limit_s)
    except NoAnswer as silence:
        raise NoAnswer(f"trying it {str(silence).partition(' ')[2]}") from None
    if ended.code < 0:
        raise NoAnswer(f"trying it ended in {_signal_name(-ended.code)}{_last_words(ended.err)}")
    try:
        answer: dict[str, Any] = json.loads(ended.out.splitlines()[-1])
    except (ValueError, IndexError):
        raise NoAnswer(
            f"trying it ended with exit code {ended.code}{_last_words(ended.err)}"
        ) from None
    if "error" in answer:
        raise NoAnswer(answer["error"])
    return answer


def shorten(words: Sequence[str], most: int = 300) -> str:
    """Words of a program as one line that a person can read to its end."""
    text = " ".join(" ".join(words).split())
    return text if len(text) <= most else f"{text[:most]}…"


def _last_words(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return f": {shorten(lines[-1:])}" if lines else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
