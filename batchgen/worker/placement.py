"""Where a process stands: which worker of a submission it is, and which of the worker's ranks.

A worker is a replica: one process, or `parallel.cp` of them with a device each, rank 0 of which is the one that claims, writes and
reports. The others meet it at an address it leaves in the run directory, under a name that no other incarnation has.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from batchgen import durable, slurm
from batchgen.engine.interface import Rendezvous, Verdict
from batchgen.errors import DeviceFault
from batchgen.run import RunDirectory, submissions

FIND_S = 600.0
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Placement:
    """A process of a submission."""

    number: int  # of the submission
    index: int  # of the worker
    rank: int = 0
    ranks: int = 1

    @classmethod
    def of_task(cls, number: int, task: int, ranks: int) -> Placement:
        """The place of a submission's task, consecutive ones being a worker's ranks."""
        return cls(number, task // ranks, task % ranks, ranks)

    def log(self, directory: RunDirectory) -> Path:
        """What this process prints, over all incarnations."""
        path = submissions.log_file(directory, self.number, self.index)
        return (
            path if self.rank == 0 else path.with_name(f"{path.stem}.rank{self.rank}{path.suffix}")
        )

    def seat(
        self, directory: RunDirectory, report: Callable[[Verdict], None] = lambda _: None
    ) -> Rendezvous:
        """Its seat in the replica.

        :param report: see `Seat`.
        """
        path = self._meeting(directory)
        return Rendezvous(
            self.rank,
            self.ranks,
            lambda address: durable.replace(path, address.encode()),
            lambda: _read(path),
            report,
        )

    def dismiss(self, directory: RunDirectory) -> None:
        """Tell ranks that still look for rank 0 that it has left."""
        if self.ranks > 1:
            durable.create(self._meeting(directory), b"")

    def _meeting(self, directory: RunDirectory) -> Path:
        return (
            submissions.folder(directory, self.number)
            / f"replica-{self.index:03d}.{_incarnation()}"
        )


def _incarnation() -> str:
    """The same for all ranks that were started together, and for no others."""
    return (
        f"{slurm.job_id()}.{slurm.restarts()}"
        if slurm.job_id()
        else os.environ.get("SUBMITIT_LOCAL_JOB_ID", "0")
    )


def _read(path: Path) -> str:
    """The file's text, as soon as there is one.

    :raises SystemExit: rank 0 has left without a need for others.
    :raises DeviceFault: rank 0 does not come.
    """
    patience = time.monotonic() + FIND_S
    while not path.exists():
        if time.monotonic() > patience:
            raise DeviceFault(f"{path}: rank 0 has not said within {FIND_S:.0f} s where it is")
        time.sleep(POLL_S)
    return path.read_text() or sys.exit(0)
