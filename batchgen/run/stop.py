"""batchgen.run.stop."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Literal

from batchgen import durable
from batchgen.run.directory import RunDirectory

StopCause = Literal["user", "disk full", "failure budget", "time limit", "restarts"]


@dataclass(frozen=True, slots=True)
class Stop:
    """The run was asked to stop."""

    cause: StopCause
    text: str
    at: float


def ask_to_stop(directory: RunDirectory, cause: StopCause, text: str) -> None:
    """Set the stop flag; the first cause stays."""
    flag = json.dumps({"cause": cause, "text": text, "at": time.time()}).encode()
    try:
        durable.create(directory.stop, flag)
    except OSError as error:
        if not durable.is_full(error):
            raise
        durable.create_from(directory.reserve, directory.stop, flag)


def read_stop(directory: RunDirectory) -> Stop | None:
    """The stop flag, if it is set."""
    try:
        return Stop(**json.loads(directory.stop.read_bytes()))
    except FileNotFoundError:
        return None


def clear_stop(directory: RunDirectory) -> None:
    """Let the run go on; also renews the reserve that lets a full disk say so."""
    durable.write(directory.reserve, bytes(65536))
    durable.remove(directory.stop)
