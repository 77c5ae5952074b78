"""Starts workers through submitit, on this machine or as a SLURM array. The only file that imports it.

The payload is one tiny callable with a path: pickles refer to code by name, and the truth is on disk. What submitit knows of a job
(its state, its result) is never asked.

On SLURM an *element* of the array is one node with one task a GPU, or the nodes that one worker fills. Tasks are numbered through, and
consecutive ones are the ranks of a worker. The batch script begins by asking arrive.py whether the node sees the run, and ends by asking
requeue.py whether the element goes on.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from batchgen import durable, slurm
from batchgen.errors import SiteError
from batchgen.launch.batch_script import python_command, sbatch_parameters
from batchgen.launch.elements import count_elements, max_running, refuse_misfit
from batchgen.run import Run, RunDirectory, Submission, submissions
from batchgen.settings import OURS, Site
from batchgen.worker.placement import Placement


@dataclass(frozen=True)
class Element:
    """What every task of an element of the array runs: be one of its workers."""

    root: str
    number: int
    tasks: int
    ranks: int

    def __call__(self, element: int) -> None:
        """Work, and end the process without handing submitit a result: an incarnation before may have left half of one."""
        from batchgen.worker.signals import Signals

        orders = Signals()
        orders.install()  # in the place of submitit's, which would requeue from here
        signal.signal(
            signal.SIGCONT, signal.SIG_DFL
        )  # comes before every other signal of SLURM's; submitit's handler only warns
        from batchgen.worker.main import main

        if given := slurm.devices():
            os.environ["CUDA_VISIBLE_DEVICES"] = given[
                int(os.environ["SLURM_LOCALID"]) % len(given)
            ]
        task = element * self.tasks + int(os.environ["SLURM_PROCID"])
        main(Path(self.root), Placement.of_task(self.number, task, self.ranks), orders)
        sys.exit(0)

    def checkpoint(self, _element: int) -> None:
        """Nothing: in the moment before our handlers are there, submitit's finds nothing to requeue."""


def launch_on(
    site: Site, run: Run, command: list[str], *, nodes: int | None = None, steal: bool = False
) -> Submission:
    """Submit the workers of a run to SLURM, as one array or as many as its size needs.

    :param nodes: to work on, where not as many as the profile says.
    :raises SiteError: the profile does not fit the job, or SLURM refuses it.
    :raises SchedulerSilent: SLURM does not answer.
    """
    wanted = site if nodes is None else site.model_copy(update={"nodes": nodes})
    refuse_misfit(wanted, run.job)
    most = slurm.max_array_size()
    ranks = run.job.parallel.degree
    elements = count_elements(wanted, ranks, len(run.plan.shards))
    submission = submissions.record_submission(
        run.directory, command, elements * site.workers(ranks), steal=steal, site=site, ranks=ranks
    )
    arrays: dict[str, int] = {}
    try:
        for first, count in portions(elements, most):
            running = max_running(site, ranks, elements) * count // elements
            arrays[_submit_array(run, submission, first, count, max(1, running))] = count
    except SiteError as refused:
        if arrays:
            taken = f"{sum(arrays.values())} of {elements} elements were submitted before, as {', '.join(arrays)}, and will work."
            raise SiteError(
                f"{refused}. {taken} batchgen resume {run.directory.root} --add brings more"
            ) from None
        durable.remove(
            run.directory.jobs / f"{submission.number:04d}.json"
        )  # nothing was started: as if it had not been tried
        raise
    finally:
        if arrays:
            submissions.record_arrays(run.directory, submission.number, arrays)
    return submission


def portions(elements: int, most: int) -> Iterator[tuple[int, int]]:
    """First element and length of each array, none of more than `most`."""
    arrays = -(-elements // most)
    for number in range(arrays):
        first, end = number * elements // arrays, (number + 1) * elements // arrays
        yield first, end - first


def _submit_array(run: Run, submission: Submission, first: int, count: int, running: int) -> str:
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    site = submission.site
    assert site is not None
    root, number = run.directory.root, submission.number
    with (
        slurm.outside_of_a_job([name for name, key in OURS.items() if getattr(site, key, None)]),
        redirect_stderr(StringIO()),
    ):
        try:
            executor = submitit.SlurmExecutor(
                folder=_folder(run.directory, number), python=python_command(site)
            )
            executor.update_parameters(
                **sbatch_parameters(
                    site, root, run.plan.run, number, first, running, submission.ranks
                )
            )
            tasks = site.tasks * site.span(submission.ranks)
            jobs = executor.map_array(
                Element(str(root), number, tasks, submission.ranks), range(first, first + count)
            )
        except (FailedJobError, FailedSubmissionError) as error:
            raise SiteError(
                f"SLURM refuses the job: {'; '.join(str(error).splitlines())}"
            ) from None
    return str(jobs[0].job_id).partition("_")[0]


def _folder(directory: RunDirectory, number: int) -> Path:
    return submissions.folder(directory, number) / "submitit"
