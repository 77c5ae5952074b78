"""A process, told apart from every other process, and whether it lives."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Literal

import psutil

Life = Literal["alive", "dead", "unknown"]


@dataclass(frozen=True, slots=True)
class Process:
    """A process, by host, number and start time: numbers are used again, but not with that time."""

    host: str
    pid: int
    # Seconds since the epoch, as the operating system says.
    started: float

    @classmethod
    def me(cls) -> Process:
        """This process."""
        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time())

    def life(self) -> Life:
        """Whether the process lives. The life of a process on another host is unknown."""
        return self.life_here() if self.host == socket.gethostname() else "unknown"

    def life_here(self) -> Life:
        """Whether the process lives, if its host is this machine. A zombie is dead."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.started) < 1.0
            return "alive" if same and process.status() != psutil.STATUS_ZOMBIE else "dead"
        except psutil.NoSuchProcess:
            return "dead"
