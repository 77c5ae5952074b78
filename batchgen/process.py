"""A process that no other of any machine can be taken for, and whether it lives."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import Literal

import psutil

Life = Literal["alive", "dead", "unknown"]


@dataclass(frozen=True, slots=True)
class Process:
    """Host, number and start time: numbers come again, together with their start time they do not."""

    host: str
    pid: int
    started: float  # seconds since the epoch, as the operating system says

    @classmethod
    def me(cls) -> Process:
        """This process."""
        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time())

    def life(self) -> Life:
        """Whether it lives; unknown on another host."""
        return "unknown" if self.host != socket.gethostname() else life_here(self.pid, self.started)


def life_here(pid: int, started: float) -> Life:
    """Whether a process of this machine lives. A zombie is dead."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < 1.0
        return "alive" if same and process.status() != psutil.STATUS_ZOMBIE else "dead"
    except psutil.NoSuchProcess:
        return "dead"
