"""The process that owns a claim, with the SLURM job it runs in, and whether it lives."""

from __future__ import annotations

from dataclasses import dataclass

from batchgen import slurm
from batchgen.process import Life, Process
from batchgen.slurm import Queue


@dataclass(frozen=True, slots=True)
class Owner(Process):
    """A process and its SLURM job. The host is the name that SLURM gives the node, inside a job."""

    # The id of the SLURM job; "" outside of SLURM.
    job: str = ""
    # How often that job had been requeued when the process started.
    restarts: int = 0

    @classmethod
    def me(cls) -> Owner:
        """This process."""
        process = Process.me()
        job, restarts = slurm.job_id(), slurm.restarts()
        return cls(slurm.node(), process.pid, process.started, job, restarts, boot=process.boot)

    def life(self, queue: Queue | None = None) -> Life:
        """Whether the process lives.

        A process may still run on this machine although its job was requeued. It counts as dead,
        because another process has taken its place.

        :param queue: asked about a process that belongs to a SLURM job.
        """
        here = self.life_here() if self.host == slurm.node() else "unknown"
        if here == "dead" or not self.job or queue is None:
            return here
        in_slurm = queue.life(self.job, self.restarts)
        return here if in_slurm == "unknown" else in_slurm
