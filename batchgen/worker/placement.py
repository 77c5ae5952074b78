"""Which worker of a submission a process is, and which of the worker's ranks.

A worker is a replica: one process, or cp · cfg processes with a device each (`[parallel]`). Rank 0
claims, writes and reports. The other ranks find it by an address that it leaves in the run
directory, in a file that only the ranks that were started with it read. The address holds a secret
(rendezvous.py of the engine): only this user can read the file.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from batchgen import durable, slurm
from batchgen.engine import Rendezvous, Verdict
from batchgen.errors import DeviceFault
from batchgen.run import RunDirectory, submissions

FIND_S = 600.0
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Placement:
    """A process of a submission."""

    # The submission's number.
    number: int
    # The worker's index.
    index: int
    rank: int = 0
    ranks: int = 1

    @classmethod
    def of_task(cls, number: int, task: int, ranks: int) -> Placement:
        """The placement of a submission's task. Consecutive tasks are the ranks of a worker."""
        return cls(number, task // ranks, task % ranks, ranks)

    def log(self, directory: RunDirectory) -> Path:
        """The file for what this process and its predecessors print."""
        path = submissions.log_file(directory, self.number, self.index)
        return path.with_name(f"{path.stem}.rank{self.rank}.log") if self.rank else path

    def rendezvous(
        self, directory: RunDirectory, report: Callable[[Verdict], None] = lambda _: None
    ) -> Rendezvous:
        """How this rank meets the others.

        :param report: called by rank 0 with the verdict before it ends with its replica.
        """
        path = self._address(directory)
        return Rendezvous(
            self.rank,
            self.ranks,
            publish=lambda address: durable.replace(path, address.encode(), durable.PRIVATE),
            find=lambda: _read(path),
            report=report,
            one_machine=slurm.node_count() == 1,
        )

    def dismiss(self, directory: RunDirectory) -> None:
        """Tell ranks that still look for rank 0 that it has left."""
        if self.ranks > 1:
            durable.create(self._address(directory), b"")

    def _address(self, directory: RunDirectory) -> Path:
        """The file of rank 0's address, named after this start of the replica."""
        job = slurm.job_id()
        local = os.environ.get("SUBMITIT_LOCAL_JOB_ID", "0")
        start = f"{job}.{slurm.restarts()}" if job else local
        return submissions.folder(directory, self.number) / f"replica-{self.index:03d}.{start}"


def _read(path: Path) -> str:
    """The file's text, as soon as it is there.

    :raises SystemExit: rank 0 has left and needs no other ranks.
    :raises DeviceFault: rank 0 does not come.
    """
    patience = time.monotonic() + FIND_S
    while not path.exists():
        if time.monotonic() > patience:
            raise DeviceFault(f"{path}: rank 0 has not said within {FIND_S:.0f} s where it is")
        time.sleep(POLL_S)
    return path.read_text() or sys.exit(0)
