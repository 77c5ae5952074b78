"""What a worker was asked to do from outside.

SIGTERM            the group being denoised is dropped, the one being written is finished; exit
SIGUSR2, SIGINT    the groups in flight are finished; exit
the last moment    as SIGTERM, a little before SLURM ends the job

Imports nothing that takes time: the handlers must be there before torch is, which takes seconds.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from types import FrameType

DEADLINE = "deadline"  # why a worker left whose time was over


class Terminated(SystemExit):
    """The worker must end now."""


@dataclass
class Orders:
    """Signals, remembered until the group's border, or raised at once."""

    leave: str = ""  # why, once it was asked to leave at the group's border

    def install(self) -> None:
        """Take over the signals of this process."""
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGALRM, self._last_moment)
        for number in (signal.SIGUSR2, signal.SIGINT):
            signal.signal(number, self._leave)

    def set_last_moment(self, seconds: float) -> None:
        """Be terminated after so many seconds from now."""
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))

    def _leave(self, number: int, _frame: FrameType | None) -> None:
        self.leave = signal.Signals(number).name

    def _terminate(self, _number: int, _frame: FrameType | None) -> None:
        self.leave = "SIGTERM"
        raise Terminated(0)

    def _last_moment(self, _number: int, _frame: FrameType | None) -> None:
        self.leave = DEADLINE
        raise Terminated(0)
