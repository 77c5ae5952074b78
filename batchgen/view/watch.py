"""Live progress in a terminal, and what Ctrl-C does there.

The watcher only reads the run directory. Ctrl-C asks the run to stop, and a second Ctrl-C ends the
workers at once. Without a terminal a line is printed when something changed.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import nullcontext

from rich.console import Console
from rich.live import Live
from rich.text import Text

from batchgen.errors import counted
from batchgen.launch.cancel import stop
from batchgen.planning import Plan
from batchgen.run import Run, RunDirectory, load_plan
from batchgen.slurm import Queue
from batchgen.units import duration
from batchgen.view.status import Status, read_status

POLL_S = 0.5
# The rate shown is that of the last half minute.
WINDOW_S = 30.0
# Seconds between lines without a terminal, if nothing changed.
QUIET_S = 10.0
# Least seconds between two questions to squeue.
SLURM_S = 10.0


def watch(run: Run, console: Console) -> Status:
    """Follow the run that this process started; Ctrl-C asks it to stop."""
    presses = obeyed = 0
    while True:
        try:
            # Inside the try: a second press may come while the first is obeyed.
            while obeyed < presses:
                obeyed += 1
                told = stop(run.directory, at_once=obeyed > 1, again="Ctrl-C again")
                console.print(told, soft_wrap=True)
            return follow(run.directory, console, run.plan)
        except KeyboardInterrupt:
            presses += 1


def follow(directory: RunDirectory, console: Console, plan: Plan | None = None) -> Status:
    """Show progress until nobody works on the run any more.

    :return: the last status.
    """
    plan = plan or load_plan(directory)
    queue, pace, log = Queue(SLURM_S, enough=1), _Pace(), _Log(console)
    live = Live(console=console, auto_refresh=False, transient=True)
    with live if console.is_terminal else nullcontext():
        while True:
            status = read_status(directory, plan, queue)
            line = _progress(status, pace.rate(status))
            if console.is_terminal:
                live.update(Text(line), refresh=True)
            else:
                log.show(status, line)
            if status.state not in ("running", "queued"):
                return status
            time.sleep(POLL_S)


class _Pace:
    """Pictures per second over the last half minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def rate(self, status: Status) -> float:
        """Note a status; pictures per second up to it, 0 while they are unknown."""
        self._seen.append((status.at, status.written))
        while self._seen[0][0] < status.at - WINDOW_S and len(self._seen) > 2:
            self._seen.popleft()
        (first_at, first), (last_at, last) = self._seen[0], self._seen[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else 0.0


def _progress(status: Status, rate: float) -> str:
    """One line: pictures, rate or what takes time before it, time left, workers, shards."""
    failed = f", {status.failed} failed" if status.failed else ""
    made = f"{status.written}/{counted(status.pictures, 'picture')}{failed}"
    left_s = (status.pictures - status.written) / rate if rate else status.left_s
    parts = [
        f"{rate:.1f}/s" if rate else status.starting,
        f"{duration(left_s)} left" if left_s else "",
        counted(status.workers, "worker"),
        f"shards {status.shards_done}/{status.shards}",
    ]
    return "  ".join([status.state, made, *filter(None, parts)])


class _Log:
    """Progress without a terminal: a line when shards were published, or now and then."""

    def __init__(self, console: Console) -> None:
        self._console, self._last, self._at = console, (-1, ""), 0.0

    def show(self, status: Status, line: str) -> None:
        """Print the line if it is news."""
        now = (status.shards_done, status.state)
        if now != self._last or status.at - self._at > QUIET_S:
            self._console.print(line, soft_wrap=True, highlight=False)
            self._last, self._at = now, status.at
