"""Submit a run's workers to SLURM as job arrays, through submitit.

What submitit pickles is one small callable with a path: pickles refer to code by name, and
everything else about the run is on disk. submitit is never asked for a job's state or result.

Tasks are numbered over all elements of a submission. Consecutive tasks are the ranks of a worker.
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
from batchgen.errors import SiteError, counted, shell_command
from batchgen.launch.batch_script import python_command, sbatch_parameters, script
from batchgen.launch.become_worker import become_worker
from batchgen.launch.elements import count_elements, max_running, refuse_misfit
from batchgen.run import Run, Submission, job_arrays, refuse_letters, submissions
from batchgen.settings import Site
from batchgen.worker.placement import Placement
from batchgen.worker.signals import Signals


@dataclass(frozen=True)
class Element:
    """What every task of an array element runs: one rank of one of its workers."""

    root: str
    # Of the submission.
    number: int
    # Tasks of one element.
    tasks: int
    # Ranks of one worker.
    ranks: int

    def __call__(self, element: int) -> None:
        """Work, then end the process.

        submitit is handed no result: a task before a requeue may have left half of one.
        """
        signals = Signals()
        signals.install()  # replaces submitit's handlers, which would requeue from here
        # SLURM sends SIGCONT before every other signal. submitit's handler only warns of it.
        signal.signal(signal.SIGCONT, signal.SIG_DFL)
        if given := slurm.devices():
            device = given[int(os.environ["SLURM_LOCALID"]) % len(given)]
            os.environ["CUDA_VISIBLE_DEVICES"] = device
        task = element * self.tasks + int(os.environ["SLURM_PROCID"])
        become_worker(Path(self.root), Placement.of_task(self.number, task, self.ranks), signals)
        sys.exit(0)

    def checkpoint(self, _element: int) -> None:
        """Return nothing that submitit could requeue, before `Signals` replaces its handlers."""


def launch_on(
    site: Site, run: Run, command: list[str], *, nodes: int | None = None, steal: bool = False
) -> Submission:
    """Submit the workers of a run to SLURM, as one array or as several if it is too long for one.

    :param nodes: nodes to work on, instead of the number in the profile.
    :raises SiteError: the profile does not fit the job, or SLURM refuses it.
    :raises OutputError: SLURM would read the run's path differently.
    :raises SchedulerSilent: SLURM does not answer.
    """
    wanted = site if nodes is None else site.model_copy(update={"nodes": nodes})
    refuse_misfit(wanted, run.job)
    refuse_letters(run.directory.root)
    most = slurm.max_array_size()
    directory, ranks = run.directory, run.job.parallel.degree
    elements = count_elements(wanted, ranks, run.plan.last_shards)
    workers = elements * site.workers(ranks)
    submission = submissions.record_submission(
        directory, command, workers, steal=steal, site=site, ranks=ranks
    )
    at_once = max_running(site, ranks, elements)
    arrays: dict[str, int] = {}
    try:
        for first, count in portions(elements, most):
            running = max(1, at_once * count // elements)
            arrays[_submit_array(run, submission, first, count, running)] = count
    except SiteError as refused:
        if arrays:
            add = shell_command("batchgen", "resume", directory.root, "--add", "N")
            raise SiteError(
                f"{refused}. {sum(arrays.values())} of {counted(elements, 'element')} were "
                f"submitted before, as {', '.join(arrays)}, and will work. {add} brings N nodes "
                "more"
            ) from None
        # Nothing was started, so the submission never was.
        durable.remove(submissions.submission_file(directory, submission.number))
        raise
    finally:
        if arrays:
            job_arrays.record_arrays(directory, submission.number, arrays)
    return submission


def portions(elements: int, most: int) -> Iterator[tuple[int, int]]:
    """First element and length of each array; no array is longer than `most`."""
    arrays = -(-elements // most)
    for number in range(arrays):
        first, end = number * elements // arrays, (number + 1) * elements // arrays
        yield first, end - first


def _submit_array(run: Run, submission: Submission, first: int, count: int, running: int) -> str:
    """Submit one array; its id."""
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    site, number, ranks = submission.site, submission.number, submission.ranks
    assert site is not None
    root, folder = run.directory.root, submissions.submitit_folder(run.directory, number)
    parameters = sbatch_parameters(site, root, run.plan.run, number, first, running, ranks)
    element = Element(str(root), number, site.tasks * site.span(ranks), ranks)
    text = script(site, root, run.plan.run, count, ranks)
    with slurm.outside_of_a_job(text), redirect_stderr(StringIO()):
        try:
            executor = submitit.SlurmExecutor(folder=folder, python=python_command(site))
            executor.update_parameters(**parameters)
            jobs = executor.map_array(element, range(first, first + count))
        except (FailedJobError, FailedSubmissionError) as error:
            reason = "; ".join(str(error).splitlines())
            raise SiteError(f"SLURM refuses the job: {reason}") from None
    return str(jobs[0].job_id).partition("_")[0]
