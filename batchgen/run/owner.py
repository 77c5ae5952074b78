"""batchgen.run.owner."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil

from batchgen import slurm
from batchgen.process import Life, life_here
from batchgen.slurm import Queue


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that no other process of any machine can be taken for."""

    host: str
    pid: int
    started: float  # seconds since the epoch, as the operating system says
    job: str = ""  # the SLURM job it runs in, and how often that was requeued before
    restarts: int = 0

    @classmethod
    def me(cls) -> Owner:
        """This process."""
        return cls(
            slurm.node(),
            os.getpid(),
            psutil.Process().create_time(),
            slurm.job_id(),
            slurm.restarts(),
        )

    def life(self, queue: Queue | None = None) -> Life:
        """Whether the process lives. On another host SLURM is asked, if the process is SLURM's and `queue` is given.

        SLURM's word also counts for a process that still runs here although its incarnation is over: another has taken its place.
        """
        here = life_here(self.pid, self.started) if self.host == slurm.node() else "unknown"
        if here == "dead" or not self.job or queue is None:
            return here
        said = queue.life(self.job, self.restarts)
        return here if said == "unknown" else said
