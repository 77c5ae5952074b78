"""A process that hangs ends itself, and its log says at what.

A thread of Python writes all stacks and the reason. If the hang lets no other thread of Python run,
faulthandler's own thread, which needs none, ends the process a little later without the reason.
"""

from __future__ import annotations

import datetime as dt
import faulthandler
import logging
import os
import sys
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)
# The thread of Python has so long to write and to end the process.
GRACE_S = 5.0


class Watchdog:
    """Ends the process unless it is called off in time. It watches one thing at a time."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def watch(self, timeout_s: float, why: Callable[[], str]) -> None:
        """End the process after `timeout_s`, instead of what was watched before.

        :param why: called in another thread when the time is over; the last line of the log.
        """
        self.call_off()
        self._timer = threading.Timer(timeout_s, _end_process, (timeout_s, why))
        self._timer.daemon = True
        self._timer.start()
        faulthandler.dump_traceback_later(timeout_s + GRACE_S, exit=True)

    def call_off(self) -> None:
        """Nothing is watched any more."""
        if self._timer:
            self._timer.cancel()
        faulthandler.cancel_dump_traceback_later()


def _end_process(timeout_s: float, why: Callable[[], str]) -> None:
    try:
        sys.stderr.write(f"Timeout ({dt.timedelta(seconds=round(timeout_s))})!\n")
        faulthandler.dump_traceback(all_threads=True)
        log.error("%s", why())
        sys.stderr.flush()
    finally:
        os._exit(1)
