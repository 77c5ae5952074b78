"""Live progress in a terminal, and what Ctrl-C does to it.

The watcher is not the run: it reads the run directory, and Ctrl-C makes it set the stop flag (a second one ends the workers at once).
Where there is no terminal it prints a line when something changed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.text import Text

from batchgen.launch.cancel import stop
from batchgen.planning import Plan
from batchgen.run import Run, RunDirectory, load_plan
from batchgen.slurm import Queue
from batchgen.view.status import Status, read_status
from batchgen.view.units import duration

POLL_S = 0.5
WINDOW_S = 30.0  # of the rate shown
QUIET_S = 10.0  # between lines where there is no terminal
SLURM_S = 10.0  # least seconds between two questions to squeue


def watch(run: Run, console: Console) -> Status:
    """Follow the run one has started; Ctrl-C asks it to stop."""
    presses = obeyed = 0
    while True:
        try:
            while (
                obeyed < presses
            ):  # inside the try: a second press may come while the first is obeyed
                obeyed += 1
                stop(run.directory, console, at_once=obeyed > 1)
            return follow(run.directory, console, run.plan)
        except KeyboardInterrupt:
            presses += 1


def follow(directory: RunDirectory, console: Console, plan: Plan | None = None) -> Status:
    """Show progress until nobody works on the run any more; the last status."""
    plan = plan or load_plan(directory)
    if not console.is_terminal:
        return _until_still(directory, plan, _Lines(console))
    pace = Pace()
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(status: Status) -> None:
            pace.add(status)
            live.update(Text(progress(status, pace)), refresh=True)

        return _until_still(directory, plan, show)


class Pace:
    """Pictures a second over the last half minute, published or not."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, status: Status) -> None:
        """A new look at the run."""
        self._seen.append((status.at, written(status)))
        while self._seen[0][0] < status.at - WINDOW_S and len(self._seen) > 2:
            self._seen.popleft()

    def rate(self) -> float:
        """Pictures a second; 0 while unknown."""
        (first_at, first), (last_at, last) = self._seen[0], self._seen[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else 0.0


def written(status: Status) -> int:
    """Pictures that are safely on the disk, published or not."""
    return status.ok + status.failed + status.in_progress


def progress(status: Status, pace: Pace) -> str:
    """One line: pictures, rate, time left, workers."""
    rate, made = pace.rate(), written(status)
    left = duration((status.rows - made) / rate) if rate else "?"
    failed = f", {status.failed} failed" if status.failed else ""
    shards = f"shards {status.shards_done}/{status.shards}"
    return f"{status.state}  {made}/{status.rows} pictures{failed}  {rate:.1f}/s  {left} left  {status.workers} workers  {shards}"


class _Lines:
    """Progress for logs: a line when shards were published, or now and then."""

    def __init__(self, console: Console) -> None:
        self._console, self._last, self._at, self._pace = console, (-1, ""), 0.0, Pace()

    def __call__(self, status: Status) -> None:
        self._pace.add(status)
        now = (status.shards_done, status.state)
        if now != self._last or status.at - self._at > QUIET_S:
            self._console.print(progress(status, self._pace), soft_wrap=True, highlight=False)
            self._last, self._at = now, status.at


def _until_still(directory: RunDirectory, plan: Plan, show: Callable[[Status], None]) -> Status:
    queue = Queue(SLURM_S, enough=1)
    while True:
        status = read_status(directory, plan, queue)
        show(status)
        if status.state not in ("running", "queued"):
            return status
        time.sleep(POLL_S)
