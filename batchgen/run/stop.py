"""The stop flag: a file that asks all workers of a run to leave."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Literal

from batchgen import durable
from batchgen.errors import DamagedRun
from batchgen.run.directory import RunDirectory
from batchgen.run.state_file import read_state
from batchgen.shortage import ShortageCause, name_shortage

StopCause = Literal["user", "failure budget", "audit", "time limit", "restarts", ShortageCause]
_RESERVE_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Stop:
    """Why and when the run was asked to stop."""

    cause: StopCause
    text: str
    # Seconds since the epoch.
    at: float


def ask_to_stop(directory: RunDirectory, cause: StopCause, text: str) -> None:
    """Set the stop flag. If it is set already, the first cause stays."""
    flag = json.dumps(asdict(Stop(cause, text, time.time()))).encode()
    try:
        durable.create(directory.stop, flag)
    except OSError as error:
        if not durable.is_full(error):
            raise
        durable.create_from(directory.reserve, directory.stop, flag)


def stop_full(directory: RunDirectory, error: OSError) -> ShortageCause:
    """Ask the run to stop because nothing more can be written.

    :return: what has run out.
    """
    shortage = name_shortage(error, directory.root)
    ask_to_stop(directory, shortage.cause, f"{shortage.told}; {shortage.remedy}")
    return shortage.cause


def read_stop(directory: RunDirectory) -> Stop | None:
    """The stop flag, if it is set. A damaged one stops the run too, and `resume` removes it."""
    try:
        return read_state(directory.stop, Stop)
    except FileNotFoundError:
        return None
    except DamagedRun:
        return Stop("user", f"{directory.stop} is there, and damaged", 0.0)


def clear_stop(directory: RunDirectory) -> None:
    """Let the run go on, and renew the reserve that becomes the flag when the disk is full."""
    durable.replace(directory.reserve, bytes(_RESERVE_BYTES), durable.PRIVATE)
    durable.remove(directory.stop)
