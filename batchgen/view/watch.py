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

from batchgen.launch.cancel import stop
from batchgen.planning import Plan
from batchgen.run import Run, RunDirectory, load_plan
from batchgen.slurm import Queue
from batchgen.view.console import print_lines
from batchgen.view.show_live import Screen, failed, log_line
from batchgen.view.status import Status, read_status

POLL_S = 0.5
# The present rate is that of the last minute.
WINDOW_S = 60.0
# A line of a log comes with so much of the run, or so many seconds, if something changed.
STEP, QUIET_S = 0.05, 60.0
# Least seconds between two questions to squeue.
SLURM_S = 10.0
STOPS = "Ctrl-C stops after the groups in flight"
STOPS_AT_ONCE = "Ctrl-C again ends the workers at once"
LEAVES = "Ctrl-C ends this view; the run goes on"


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
            return follow(run.directory, console, run.plan, STOPS_AT_ONCE if presses else STOPS)
        except KeyboardInterrupt:
            presses += 1


def follow(
    directory: RunDirectory, console: Console, plan: Plan | None = None, hint: str = LEAVES
) -> Status:
    """Show progress until nobody works on the run any more.

    :param hint: what Ctrl-C does.
    :return: the last status.
    """
    plan = plan or load_plan(directory)
    queue, pace, log = Queue(SLURM_S, enough=1), _Pace(), _Log(console)
    live = Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop")
    size = console.size
    with live if console.is_interactive else nullcontext():
        while True:
            began = time.monotonic()
            status = read_status(directory, plan, queue)
            if status.state not in ("running", "queued"):
                return status
            if not console.is_interactive:
                log.show(status, pace.rate(status))
            else:
                if size != (size := console.size):
                    # The terminal may have wrapped the old screen: its lines are no longer known.
                    console.clear()
                live.update(Screen(status, pace.rate(status), hint), refresh=True)
            # A run of which a look takes long is looked at less often.
            time.sleep(max(POLL_S, 4 * (time.monotonic() - began)))


class _Pace:
    """Pictures per second over the last minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def rate(self, status: Status) -> float:
        """Note a status; pictures per second up to it, 0 while they are unknown."""
        self._seen.append((status.at, status.written))
        while len(self._seen) > 2 and self._is_of_no_use():
            self._seen.popleft()
        (first_at, first), (last_at, last) = self._seen[0], self._seen[-1]
        return max(last - first, 0) / (last_at - first_at) if last_at > first_at else 0.0

    def _is_of_no_use(self) -> bool:
        """Whether the first look is too old, or nothing was written between it and the second."""
        (first_at, first), (_, second) = self._seen[0], self._seen[1]
        return first == second or first_at < self._seen[-1][0] - WINDOW_S


class _Log:
    """Progress without a terminal: a line for a change, and now and then one for what was made."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # Of the last line: what it was news of, when it came, how many pictures were written.
        self._news: tuple[object, ...] = ()
        self._at, self._written = 0.0, 0
        # Keys of failed pictures that were told.
        self._told: set[int] = set()

    def show(self, status: Status, now: float) -> None:
        """Print a line if there is news."""
        phases = {one.stage.words for one in status.at_work} if status.starting else ()
        bad = status.failed + status.failed_in_progress
        news = (status.state, status.workers, *sorted(phases), status.written > 0, bad > 0)
        made = status.written - self._written
        due = made >= STEP * status.pictures or status.at - self._at > QUIET_S
        if news == self._news and not (made and due):
            return
        new = [one for one in status.last_failures if one.key not in self._told]
        self._told |= {one.key for one in new}
        print_lines(self._console, [log_line(status, now), *map(failed, new)])
        self._news, self._at, self._written = news, status.at, status.written
