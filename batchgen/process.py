"""A process, told apart from every other process, and whether it lives.

Process numbers are used again, but not with the same start time in the same boot of the machine.
Linux counts start times from the boot, so a step of the system clock changes none. Other systems
give them by the system clock only, and so did batchgen until 0.2.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

Life = Literal["alive", "dead", "unknown"]

_BOOT = Path("/proc/sys/kernel/random/boot_id")
# Start times that differ by less are the same. The system clock's are rounded.
_SAME_S = 1.0


@dataclass(frozen=True, slots=True)
class Process:
    """A process, by its host, its number, and when it started."""

    host: str
    pid: int
    # Seconds since the machine was booted; since the epoch if `boot` is "".
    started: float
    # The kernel's name for the time from one start of the machine to the next.
    boot: str = field(default="", kw_only=True)

    @classmethod
    def me(cls) -> Process:
        """This process."""
        boot, pid = _this_boot(), os.getpid()
        return cls(socket.gethostname(), pid, _started(pid, boot), boot=boot)

    def life(self) -> Life:
        """Whether the process lives. The life of a process on another host is unknown."""
        return self.life_here() if self.host == socket.gethostname() else "unknown"

    def life_here(self) -> Life:
        """Whether the process lives, if its host is this machine. A zombie is dead.

        A process that this user may not see is unknown.
        """
        if self.boot and self.boot != _this_boot():
            return "dead"
        try:
            same = abs(_started(self.pid, self.boot) - self.started) < _SAME_S
            zombie = psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
            return "alive" if same and not zombie else "dead"
        except (psutil.NoSuchProcess, ProcessLookupError):
            return "dead"
        except (psutil.AccessDenied, PermissionError):
            return "unknown"


def _this_boot() -> str:
    """The kernel's random name for the time since it started; "" if it has none."""
    return _BOOT.read_text().strip() if _BOOT.exists() else ""


def _started(pid: int, boot: str) -> float:
    """When a process started: seconds since the boot; since the epoch if `boot` is "".

    :raises ProcessLookupError: there is no such process.
    :raises psutil.NoSuchProcess: the same.
    """
    if not boot:
        return psutil.Process(pid).create_time()
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None
    # The name of the program, in parentheses, may hold anything. It is the second field, and the
    # start is the 22nd, in clock ticks.
    return int(text.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
