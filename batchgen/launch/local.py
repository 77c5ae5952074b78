"""One worker on this machine, started through submitit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from batchgen.launch.become_worker import become_worker
from batchgen.run import RunDirectory, Submission, submissions
from batchgen.worker.placement import Placement

# submitit's own default ends a local job after two minutes.
_YEAR_MIN = 365 * 24 * 60


class LocalJob(Protocol):
    """What the supervisor needs of a worker it has started."""

    def done(self) -> bool:
        """Whether the worker has ended."""

    def cancel(self) -> None:
        """End the worker: SIGINT, then SIGKILL a second later."""


def start_here(directory: RunDirectory, submission: Submission, index: int) -> LocalJob:
    """Start worker `index` of a submission on this machine, with all its ranks."""
    import submitit

    number, ranks = submission.number, submission.ranks
    executor = submitit.LocalExecutor(folder=submissions.submitit_folder(directory, number))
    executor.update_parameters(timeout_min=_YEAR_MIN, stderr_to_stdout=True, tasks_per_node=ranks)
    job: LocalJob = executor.submit(work, str(directory.root), number, index, ranks)
    return job


def work(root: str, number: int, index: int, ranks: int) -> None:
    """Be one rank of a worker. This is what the local job runs."""
    rank = int(os.environ["SUBMITIT_LOCAL_LOCALID"])
    become_worker(Path(root), Placement(number, index, rank, ranks))
