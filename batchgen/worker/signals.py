"""What a worker was asked to do from outside.

SIGTERM            the group being denoised is dropped, the one being written is finished; exit
SIGUSR2, SIGINT    the groups in flight are finished; exit
the last moment    as SIGTERM, a little before SLURM ends the job

Imports nothing that takes time: the handlers must be there before torch is, which takes seconds.
"""

from __future__ import annotations

import faulthandler
import math
import signal
import time
from dataclasses import dataclass
from types import FrameType

from batchgen.run import Departure, LeaveCause

LAST_S = 30.0  # before SLURM ends the job: its batch script must still have time to requeue
HANG_S = 10.0  # after its last moment a worker that is still there hangs


class Terminated(SystemExit):
    """The worker must end now."""


@dataclass
class Signals:
    """Signals, remembered until the group's border, or raised at once."""

    # Set once the worker was asked to leave at the border of its group.
    leave: Departure | None = None

    def install(self) -> None:
        """Take over the signals of this process."""
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGALRM, self._last_moment)
        for number in (signal.SIGUSR2, signal.SIGINT):
            signal.signal(number, self._leave)

    def ignore(self) -> None:
        """Leave it to another process of the replica to obey; this one is told by it."""
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    def end_before(self, end: float | None, warning_s: float) -> float:
        """Be terminated a little before SLURM ends the job, by a watchdog if nothing else helps; when that is.

        :param end: the job's end, in seconds since the epoch; None where it has none.
        :param warning_s: how long before it SLURM warns.
        """
        if end is None:
            return math.inf
        last = end - min(LAST_S, warning_s / 2)
        signal.setitimer(signal.ITIMER_REAL, max(last - time.time(), 0.001))
        faulthandler.dump_traceback_later(max(last + HANG_S - time.time(), 1.0), exit=True)
        return last

    def _leave(self, number: int, _frame: FrameType | None) -> None:
        self.leave = Departure(LeaveCause(signal.Signals(number).name))

    def _terminate(self, _number: int, _frame: FrameType | None) -> None:
        self.leave = Departure(LeaveCause.SIGTERM)
        raise Terminated(0)

    def _last_moment(self, _number: int, _frame: FrameType | None) -> None:
        self.leave = Departure(LeaveCause.DEADLINE)
        raise Terminated(0)
