"""Keeps the workers of this machine going.

A *supervisor*, in a session of its own, starts the workers (submit.py), and a new one for one that dies: a closed terminal or Ctrl-C
in the foreground never reaches the workers. It stops trying when several deaths in a row brought nothing new to the disk.
In SLURM there is none: each element of the array looks after itself (requeue.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from batchgen import durable, slurm, submissions
from batchgen.errors import BatchgenError
from batchgen.hardware import visible_devices, worker_count
from batchgen.run import Run
from batchgen.store import Store
from batchgen.submissions import Submission
from batchgen.submit import LocalJob, start_here
from batchgen.tally import tally, unpublished

POLL_S = 0.1
FRUITLESS_DEATHS = 6  # the ladder in tasks.py needs five deaths to name one poison picture
PAUSE_S = 0.5  # before a restart, and as much again for every death before it
PATIENCE_S = 10.0  # how long workers may take to obey SIGTERM


def launch(run: Run, command: list[str], *, workers: int | None = None, steal: bool = False) -> Submission:
    """Record a submission and start its supervisor in a session of its own.

    :param workers: how many, where not as many as the job says.
    :raises JobError: the job wants a GPU and there is none.
    """
    devices = visible_devices(run.job)
    limit = run.job.run.time_limit_s
    workers = workers or worker_count(run.job, devices, len(run.plan.shards))
    deadline = time.time() + limit if limit else None
    submission = submissions.record(run.store, command, workers, devices, deadline=deadline, steal=steal, ranks=run.job.parallel.degree)
    with (run.store.logs / f"{submission.number:04d}-supervisor.log").open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "batchgen.supervisor", str(run.store.root), str(submission.number)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return submission


def terminate(store: Store) -> None:
    """Ask the supervisors of a run on this machine to end their workers at once."""
    for member in submissions.members(store):
        if member.role == "supervisor" and member.life() == "alive":
            os.kill(member.owner.pid, signal.SIGTERM)


@dataclass
class Slot:
    """A place for a worker: its job, and how often it died for nothing."""

    index: int
    job: LocalJob | None
    fruitless: int = 0
    restart_at: float = 0.0


@dataclass
class Supervisor:
    """Keeps the workers of one submission going."""

    store: Store
    submission: Submission
    progress: int = 0
    slots: list[Slot] = field(default_factory=list)
    stopping: bool = False
    recalled: bool = False

    def run(self) -> None:
        """Until every worker has left in good order, or nothing helps."""
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.progress = self._written()
        self.slots = [Slot(index, self._submit(index)) for index in range(self.submission.workers)]
        while self.slots:
            time.sleep(POLL_S)
            self.slots = [slot for slot in self.slots if self._keep(slot)] or self._recall()
            if self.stopping:
                self._end_workers()
                return
        if not self.store.complete() and any(member.ended == submissions.DEADLINE for member in self._members()):
            self.store.ask_to_stop("time limit", "the submission's run.time_limit_s is over")

    def _submit(self, index: int) -> LocalJob:
        return start_here(self.store, self.submission, index)

    def _keep(self, slot: Slot) -> bool:
        """Whether the slot still has or will have a worker."""
        if slot.job is not None and not slot.job.done():
            return True
        if slot.job is not None:
            slot.job = None
            if self._left_in_order(slot.index) or self.store.stopped() or self.stopping:
                return False
            if slurm.job_id():  # this machine is a node that SLURM lent, and no batch script of ours watches
                durable.create(self.store.death(slurm.job_id(), slurm.restarts()), b"")
            written = self._written()
            slot.fruitless = 1 if written > self.progress else slot.fruitless + 1
            self.progress = max(self.progress, written)
            if slot.fruitless >= FRUITLESS_DEATHS:
                self._give_up(slot)
                return False
            slot.restart_at = time.time() + PAUSE_S * slot.fruitless
        if time.time() >= slot.restart_at:
            slot.job = self._submit(slot.index)
        return True

    def _recall(self) -> list[Slot]:
        """Where a sick device left work behind, the workers that had gone because nothing was free; once."""
        ended = {member.index: member.ended for member in self._members() if member.role == "worker"}
        if self.recalled or self.store.stopped() or self.stopping or not any(why.startswith(submissions.SICK) for why in ended.values()):
            return []
        self.recalled = True
        return [Slot(index, self._submit(index)) for index, why in ended.items() if why == submissions.NOTHING_FREE]

    def _give_up(self, slot: Slot) -> None:
        log = submissions.log_file(self.store, self.submission.number, slot.index)
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        last = next((line for line in reversed(lines) if line.strip()), "it printed nothing")
        self.store.ask_to_stop("restarts", f"worker {slot.index} died {slot.fruitless} times without a new picture; its last words: {last}")

    def _left_in_order(self, index: int) -> bool:
        mine = [m for m in self._members() if m.role == "worker" and m.index == index]
        return bool(mine) and mine[-1].ended != ""

    def _members(self) -> list[submissions.Member]:
        return list(submissions.members_of(self.store, self.submission.number))

    def _written(self) -> int:
        counts = tally(self.store)
        return counts.ok + counts.failed + sum(unpublished(self.store, counts.shards))

    def _terminate(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping = True

    def _end_workers(self) -> None:
        for member in self._members():
            if member.role == "worker" and member.life() == "alive":
                os.kill(member.owner.pid, signal.SIGTERM)
        patience = time.time() + PATIENCE_S
        while time.time() < patience and any(slot.job is not None and not slot.job.done() for slot in self.slots):
            time.sleep(POLL_S)
        for slot in self.slots:
            if slot.job is not None and not slot.job.done():
                slot.job.cancel()  # submitit's controller: SIGINT, then SIGKILL a second later


def main() -> None:
    """`python -m batchgen.supervisor RUN NUMBER`: be the supervisor of a submission."""
    store, number = Store.open(Path(sys.argv[1])), int(sys.argv[2])
    try:
        member = submissions.join(store, number, "supervisor")
        Supervisor(store, submissions.read(store, number)).run()
        submissions.leave(member, "every worker has left")
    except BatchgenError as error:
        sys.exit(f"batchgen: {error}")
    except OSError as error:
        if not durable.is_full(error):
            raise
        store.ask_to_stop("disk full", f"{error.strerror}; free space below {store.root}")


if __name__ == "__main__":
    main()
