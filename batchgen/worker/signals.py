"""Signals to a worker, and the last moment of its SLURM job.

SIGTERM            drop the group being denoised, finish the one being written, exit
SIGUSR2, SIGINT    finish the groups in flight, exit
the last moment    as SIGTERM, a little before SLURM ends the job

This module imports nothing slow: the handlers must be installed before torch is imported, which
takes seconds.
"""

from __future__ import annotations

import faulthandler
import math
import signal
import time
from dataclasses import dataclass
from types import FrameType

from batchgen.run import Departure, LeaveCause

# The last moment comes so long before SLURM ends the job: its batch script still needs time to
# requeue.
LAST_S = 30.0
# A worker that is still there so long after its last moment hangs.
HANG_S = 10.0


class Terminated(SystemExit):
    """The worker must end now."""


@dataclass
class Signals:
    """The signals of a process: kept until the group's border, or raised at once."""

    # Why the worker must leave at the border of its group, once it must.
    leave: Departure | None = None

    def install(self) -> None:
        """Handle the signals of this process."""
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGALRM, self._last_moment)
        for number in (signal.SIGUSR2, signal.SIGINT):
            signal.signal(number, self._leave)

    def ignore(self) -> None:
        """Ignore the signals in a rank other than 0: rank 0 obeys them and tells the others."""
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)

    def end_before(self, end: float | None, warning_s: float) -> float:
        """Terminate this process a little before SLURM ends the job. If it hangs, kill it.

        :param end: the job's end, in seconds since the epoch; None if it has none.
        :param warning_s: how long before the end SLURM warns.
        :return: the last moment, in seconds since the epoch.
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
