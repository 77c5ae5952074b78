"""Why a process left a run in good order. The text stands in the `.end` file of the process.

A process that dies writes no such file.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class LeaveCause(StrEnum):
    """What made a process leave; the value begins the text of its `.end` file."""

    SIGTERM = "SIGTERM"
    SIGUSR2 = "SIGUSR2"
    SIGINT = "SIGINT"
    DEADLINE = "deadline"
    STOP_FLAG = "stop flag"
    ALL_DONE = "all shards are done"
    NOTHING_FREE = "nothing free: others work on the rest"
    SICK_DEVICE = "SickDevice"
    # Written until 0.2, for everything that can run out.
    DISK_FULL = "disk full"
    WORKERS_LEFT = "every worker has left"
    # Any other error; the detail is the whole text.
    ERROR = ""


_NAMED = {cause for cause in LeaveCause if cause}
_TOLD_TO = {LeaveCause.SIGTERM, LeaveCause.SIGUSR2, LeaveCause.SIGINT, LeaveCause.DEADLINE}


@dataclass(frozen=True, slots=True)
class Departure:
    """A cause and what else there is to say about it."""

    cause: LeaveCause
    detail: str = ""

    def __str__(self) -> str:
        return ": ".join(part for part in (self.cause, self.detail) if part)

    @classmethod
    def parse(cls, text: str) -> Departure:
        """The departure that was written as `text`."""
        cause, _, detail = (text, "", "") if text in _NAMED else text.partition(": ")
        known = cause in _NAMED
        return cls(LeaveCause(cause), detail) if known else cls(LeaveCause.ERROR, text)

    @classmethod
    def of_error(cls, error: Exception) -> Departure:
        """A worker leaves because of an error that another try would meet again."""
        return cls.parse(f"{type(error).__name__}: {error}")

    @property
    def was_told(self) -> bool:
        """Whether the process was told to leave or had no time left. It could have gone on."""
        return self.cause in _TOLD_TO
