"""Start the workers of this machine, and a new one for one that dies.

    python -m batchgen.launch.supervisor RUN SUBMISSION

The supervisor has a session of its own, so a closed terminal or Ctrl-C never reaches the workers.
It stops the run when a worker dies several times in a row without a new picture on the disk. SLURM
array elements have no supervisor: requeue.py decides about them.
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
from batchgen.launch.cancel import terminate
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
    stop_full,
    submissions,
)
from batchgen.shard import count_pictures, unpublished_counts

POLL_S = 0.1
# Deaths in a row. shard/escalation.py needs five deaths to find one deadly picture.
FRUITLESS_DEATHS = 6
# The pause before a restart, for each fruitless death before it.
PAUSE_S = 0.5
# How long workers may take to obey SIGTERM.
PATIENCE_S = 10.0


def launch(
    run: Run, command: list[str], *, workers: int | None = None, steal: bool = False
) -> Submission:
    """Record a submission and start its supervisor.

    :param workers: how many, instead of the number in the job.
    :raises JobError: the job wants a GPU and there is none.
    """
    job = run.job
    devices, limit = visible_devices(job), job.run.time_limit_s
    directory = run.directory
    submission = submissions.record_submission(
        directory,
        command,
        workers or worker_count(job, devices, run.plan.last_shards),
        devices,
        deadline=time.time() + limit if limit else None,
        steal=steal,
        ranks=job.parallel.degree,
    )
    number = submission.number
    arguments = ["-m", "batchgen.launch.supervisor", str(directory.root), str(number)]
    with submissions.supervisor_log(directory, number).open("ab") as log:
        subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ | _import_path(),
        )
    return submission


def _import_path() -> dict[str, str]:
    """Variables for supervisor and workers: Python imports nothing from the current folder.

    A `random.py` there would take the place of Python's own. An empty entry of PYTHONPATH, as of
    `PYTHONPATH=$PYTHONPATH:/more` where it was unset, means the current folder too.
    """
    entries = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(entries)}


@dataclass
class Slot:
    """One worker of the submission, over all its processes."""

    index: int
    # None between a death and the restart.
    job: LocalJob | None
    # Deaths in a row without a new picture.
    fruitless: int = 0
    # On the monotonic clock.
    restart_at: float = 0.0

    def works(self) -> bool:
        """Whether the worker's process runs."""
        return self.job is not None and not self.job.done()


@dataclass
class Supervisor:
    """Keeps the workers of one submission going."""

    directory: RunDirectory
    submission: Submission
    # Pictures that were on the disk at the last death.
    progress: int = 0
    slots: list[Slot] = field(default_factory=list)
    # Whether SIGTERM came.
    stopping: bool = False
    # Whether workers were started for the work of a sick device.
    recalled: bool = False

    def run(self) -> None:
        """Work until every worker has left in good order, or nothing helps."""
        signal.signal(signal.SIGTERM, self._terminate)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.progress = self._written()
        self.slots = [self._start(index) for index in range(self.submission.workers)]
        while self.slots and not self.stopping:
            time.sleep(POLL_S)
            self.slots = [slot for slot in self.slots if self._keep(slot)] or self._recall()
        if self.stopping:
            self._end_workers()
        elif LeaveCause.DEADLINE in self._causes().values() and not self.directory.complete():
            ask_to_stop(self.directory, "time limit", "the submission's run.time_limit_s is over")

    def _start(self, index: int) -> Slot:
        return Slot(index, start_here(self.directory, self.submission, index))

    def _keep(self, slot: Slot) -> bool:
        """Whether the slot has or will have a worker."""
        if slot.works():
            return True
        if slot.job is not None:
            slot.job = None
            if self._causes().get(slot.index) is not None or self._no_restarts():
                return False
            self._note_death(slot)
            if slot.fruitless >= FRUITLESS_DEATHS:
                self._give_up(slot)
                return False
        if time.monotonic() >= slot.restart_at:
            slot.job = start_here(self.directory, self.submission, slot.index)
        return True

    def _no_restarts(self) -> bool:
        return self.stopping or read_stop(self.directory) is not None

    def _note_death(self, slot: Slot) -> None:
        # In a SLURM job that is not ours, no batch script notes the death.
        if job := slurm.job_id():
            durable.create(self.directory.death(job, slurm.restarts()), b"")
        written = self._written()
        slot.fruitless = 1 if written > self.progress else slot.fruitless + 1
        self.progress = max(self.progress, written)
        slot.restart_at = time.monotonic() + PAUSE_S * slot.fruitless

    def _recall(self) -> list[Slot]:
        """Once: restart workers that found nothing free before a sick device left its shards."""
        causes = self._causes()
        if self.recalled or self._no_restarts() or LeaveCause.SICK_DEVICE not in causes.values():
            return []
        self.recalled = True
        idle = [index for index, cause in causes.items() if cause == LeaveCause.NOTHING_FREE]
        return [self._start(index) for index in idle]

    def _give_up(self, slot: Slot) -> None:
        log = submissions.log_file(self.directory, self.submission.number, slot.index)
        if not submissions.own_lines(log):  # it died before it wrote there
            logs = submissions.submitit_folder(self.directory, self.submission.number).glob("*.out")
            log = max(logs, key=lambda path: path.stat().st_mtime_ns, default=log)
        reason = f"worker {slot.index} died {slot.fruitless} times without a new picture"
        last_words = f"its last words: {submissions.last_line(log)}"
        ask_to_stop(self.directory, "restarts", f"{reason}; {last_words}")

    def _workers(self) -> list[submissions.Member]:
        everybody = submissions.members_of(self.directory, self.submission.number)
        return [member for member in everybody if member.role == "worker"]

    def _causes(self) -> dict[int, LeaveCause | None]:
        """Why the last process of each worker left; None if it lives or died."""
        return {m.index: m.departure.cause if m.departure else None for m in self._workers()}

    def _written(self) -> int:
        """Pictures on the disk, published or not."""
        counts = count_pictures(self.directory)
        unpublished = unpublished_counts(self.directory, counts.shards)
        return counts.ok + counts.failed + unpublished.pictures

    def _terminate(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping = True

    def _end_workers(self) -> None:
        for member in self._workers():
            if member.life() == "alive":
                terminate(member)
        patience = time.monotonic() + PATIENCE_S
        while time.monotonic() < patience and any(slot.works() for slot in self.slots):
            time.sleep(POLL_S)
        for slot in self.slots:
            if slot.job is not None and not slot.job.done():
                slot.job.cancel()


def main() -> None:
    """Be the supervisor of a submission."""
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
        stop_full(directory, error)


if __name__ == "__main__":
    main()
