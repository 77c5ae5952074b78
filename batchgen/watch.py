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

from batchgen import slurm
from batchgen.crew import jobs_of
from batchgen.errors import SchedulerSilent
from batchgen.plan import Plan
from batchgen.run import Run, load_plan
from batchgen.slurm import Queue
from batchgen.status import Status, look
from batchgen.store import Store
from batchgen.submissions import submissions
from batchgen.supervisor import terminate

POLL_S = 0.5
WINDOW_S = 30.0  # of the rate shown
QUIET_S = 10.0  # between lines where there is no terminal
SLURM_S = 10.0  # least seconds between two questions to squeue


def watch(run: Run, console: Console) -> Status:
    """Follow the run one has started; Ctrl-C asks it to stop."""
    presses = obeyed = 0
    while True:
        try:
            while obeyed < presses:  # inside the try: a second press may come while the first is obeyed
                obeyed += 1
                stop(run.store, console, at_once=obeyed > 1)
            return follow(run.store, console, run.plan)
        except KeyboardInterrupt:
            presses += 1


def follow(store: Store, console: Console, plan: Plan | None = None) -> Status:
    """Show progress until nobody works on the run any more; the last status."""
    plan = plan or load_plan(store)
    if not console.is_terminal:
        return _until_still(store, plan, _Lines(console))
    pace = Pace()
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(status: Status) -> None:
            pace.add(status)
            live.update(Text(progress(status, pace)), refresh=True)

        return _until_still(store, plan, show)


def stop(store: Store, console: Console, *, at_once: bool, again: str = "Ctrl-C again") -> None:
    """Ask a run to stop: after the groups in flight, or at once. `again` is how to insist."""
    store.ask_to_stop("user", "asked to stop")
    cancel_jobs(store, at_once=at_once)
    if at_once:
        terminate(store)
        console.print("Ending the workers now.")
    else:
        console.print(f"Stopping after the groups in flight; {again} ends the workers at once.", soft_wrap=True)


def cancel_jobs(store: Store, *, at_once: bool) -> None:
    """Cancel the run's jobs in SLURM, or only those that wait for a node: the others see the stop flag.

    :raises SchedulerSilent: they could not be found or cancelled; the stop flag is set all the same.
    """
    if not any(submission.site for submission in submissions(store)):
        return
    queue = Queue()
    jobs = jobs_of(load_plan(store).run, queue)
    if queue.trouble:
        raise SchedulerSilent(f"the run was asked to stop, and its workers will; but its jobs could not be cancelled: {queue.trouble}")
    slurm.cancel(jobs, waiting_only=not at_once)


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


def duration(seconds: float) -> str:
    """`42 s`, `12 min`, `3.4 h`, `2.1 d`."""
    for limit, unit, size in ((90, "s", 1), (90 * 60, "min", 60), (48 * 3600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}" if size < 3600 else f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:.1f} d"


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


def _until_still(store: Store, plan: Plan, show: Callable[[Status], None]) -> Status:
    queue = Queue(SLURM_S, enough=1)
    while True:
        status = look(store, plan, queue)
        show(status)
        if status.state not in ("running", "queued"):
            return status
        time.sleep(POLL_S)
