"""batchgen.launch.local."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from batchgen.launch.slurm_array import _folder
from batchgen.run import RunDirectory, Submission
from batchgen.worker.placement import Placement

YEAR_MIN = 365 * 24 * 60  # submitit's own default ends a local job after two minutes


class LocalJob(Protocol):
    """What the supervisor asks of a worker it has started."""

    def done(self) -> bool:
        """Whether it has ended."""

    def cancel(self) -> None:
        """End it: SIGINT, then SIGKILL a second later."""


def start_here(directory: RunDirectory, submission: Submission, index: int) -> LocalJob:
    """Start worker `index` of a submission on this machine, with all its ranks."""
    import submitit

    executor = submitit.LocalExecutor(folder=_folder(directory, submission.number))
    executor.update_parameters(
        timeout_min=YEAR_MIN, stderr_to_stdout=True, tasks_per_node=submission.ranks
    )
    job: LocalJob = executor.submit(
        start, str(directory.root), submission.number, index, submission.ranks
    )
    return job


def start(root: str, number: int, index: int, ranks: int) -> None:
    """What a local job runs: be one worker of a submission, or one of its ranks."""
    from batchgen.worker.main import main

    main(Path(root), Placement(number, index, int(os.environ["SUBMITIT_LOCAL_LOCALID"]), ranks))
