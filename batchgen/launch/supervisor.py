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

from batchgen import durable, slurm
from batchgen.errors import BatchgenError
from batchgen.launch.local import LocalJob, start_here
from batchgen.planning import visible_devices, worker_count
from batchgen.run import (
    Departure,
    LeaveCause,
    Run,
    RunDirectory,
    Submission,
    ask_to_stop,
    read_stop,
    submissions,
)
from batchgen.shard import count_pictures, unpublished_counts

POLL_S = 0.1
FRUITLESS_DEATHS = 6  # the ladder in tasks.py needs five deaths to name one poison picture
PAUSE_S = 0.5  # before a restart, and as much again for every death before it
PATIENCE_S = 10.0  # how long workers may take to obey SIGTERM


def launch(
    run: Run, command: list[str], *, workers: int | None = None, steal: bool = False
) -> Submission:
    """Record a submission and start its supervisor in a session of its own.

    :param workers: how many, where not as many as the job says.
    :raises JobError: the job wants a GPU and there is none.
    """
    devices = visible_devices(run.job)
    limit = run.job.run.time_limit_s
    workers = workers or worker_count(run.job, devices, len(run.plan.shards))
    deadline = time.time() + limit if limit else None
    submission = submissions.record_submission(
        run.directory,
        command,
        workers,
        devices,
        deadline=deadline,
        steal=steal,
        ranks=run.job.parallel.degree,
    )
    with (run.directory.logs / f"{submission.number:04d}-supervisor.log").open("ab") as log:
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "batchgen.launch.supervisor",
                str(run.directory.root),
                str(submission.number),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return submission


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

    directory: RunDirectory
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
        if not self.directory.complete() and any(
            member.departure == Departure(LeaveCause.DEADLINE) for member in self._members()
        ):
            ask_to_stop(self.directory, "time limit", "the submission's run.time_limit_s is over")

    def _submit(self, index: int) -> LocalJob:
        return start_here(self.directory, self.submission, index)

    def _keep(self, slot: Slot) -> bool:
        """Whether the slot still has or will have a worker."""
        if slot.job is not None and not slot.job.done():
            return True
        if slot.job is not None:
            slot.job = None
            if self._left_in_order(slot.index) or read_stop(self.directory) or self.stopping:
                return False
            if (
                slurm.job_id()
            ):  # this machine is a node that SLURM lent, and no batch script of ours watches
                durable.create(self.directory.death(slurm.job_id(), slurm.restarts()), b"")
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
        ended = {
            member.index: member.departure for member in self._members() if member.role == "worker"
        }
        if (
            self.recalled
            or read_stop(self.directory)
            or self.stopping
            or not any(why and why.cause == LeaveCause.SICK_DEVICE for why in ended.values())
        ):
            return []
        self.recalled = True
        return [
            Slot(index, self._submit(index))
            for index, why in ended.items()
            if why == Departure(LeaveCause.NOTHING_FREE)
        ]

    def _give_up(self, slot: Slot) -> None:
        log = submissions.log_file(self.directory, self.submission.number, slot.index)
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        last = next((line for line in reversed(lines) if line.strip()), "it printed nothing")
        ask_to_stop(
            self.directory,
            "restarts",
            f"worker {slot.index} died {slot.fruitless} times without a new picture; its last words: {last}",
        )

    def _left_in_order(self, index: int) -> bool:
        mine = [m for m in self._members() if m.role == "worker" and m.index == index]
        return bool(mine) and mine[-1].departure is not None

    def _members(self) -> list[submissions.Member]:
        return list(submissions.members_of(self.directory, self.submission.number))

    def _written(self) -> int:
        counts = count_pictures(self.directory)
        return counts.ok + counts.failed + sum(unpublished_counts(self.directory, counts.shards))

    def _terminate(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping = True

    def _end_workers(self) -> None:
        for member in self._members():
            if member.role == "worker" and member.life() == "alive":
                os.kill(member.owner.pid, signal.SIGTERM)
        patience = time.time() + PATIENCE_S
        while time.time() < patience and any(
            slot.job is not None and not slot.job.done() for slot in self.slots
        ):
            time.sleep(POLL_S)
        for slot in self.slots:
            if slot.job is not None and not slot.job.done():
                slot.job.cancel()  # submitit's controller: SIGINT, then SIGKILL a second later


def main() -> None:
    """`python -m batchgen.launch.supervisor RUN NUMBER`: be the supervisor of a submission."""
    directory, number = RunDirectory.open(Path(sys.argv[1])), int(sys.argv[2])
    try:
        member = submissions.join(directory, number, "supervisor")
        Supervisor(directory, submissions.read_submission(directory, number)).run()
        submissions.leave(member, Departure(LeaveCause.WORKERS_LEFT))
    except BatchgenError as error:
        sys.exit(f"batchgen: {error}")
    except OSError as error:
        if not durable.is_full(error):
            raise
        ask_to_stop(directory, "disk full", f"{error.strerror}; free space below {directory.root}")


if __name__ == "__main__":
    main()
