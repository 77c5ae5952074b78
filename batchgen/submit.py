"""Starts workers through submitit, on this machine or as a SLURM array. The only file that imports it.

The payload is one tiny callable with a path: pickles refer to code by name, and the truth is on disk. What submitit knows of a job
(its state, its result) is never asked.

On SLURM an *element* of the array is one node with one task a GPU, or the nodes that one worker fills. Tasks are numbered through, and
consecutive ones are the ranks of a worker. The batch script begins by asking arrive.py whether the node sees the run, and ends by asking
requeue.py whether the element goes on.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

from batchgen import durable, slurm, submissions
from batchgen.errors import SiteError
from batchgen.job import Job
from batchgen.run import Run
from batchgen.seat import Place
from batchgen.site import OURS, Site, seconds
from batchgen.store import Store
from batchgen.submissions import Submission

YEAR_MIN = 365 * 24 * 60  # submitit's own default ends a local job after two minutes
TIMES = (  # the job's own times, for the worker's deadline: older SLURMs do not put them into the environment
    'export $(SLURM_TIME_FORMAT=%s squeue --noheader --jobs="$SLURM_JOB_ID" '
    '--format="SLURM_JOB_START_TIME=%S SLURM_JOB_END_TIME=%e") > /dev/null'
)


class LocalJob(Protocol):
    """What the supervisor asks of a worker it has started."""

    def done(self) -> bool:
        """Whether it has ended."""

    def cancel(self) -> None:
        """End it: SIGINT, then SIGKILL a second later."""


def start_here(store: Store, submission: Submission, index: int) -> LocalJob:
    """Start worker `index` of a submission on this machine, with all its ranks."""
    import submitit

    executor = submitit.LocalExecutor(folder=_folder(store, submission.number))
    executor.update_parameters(timeout_min=YEAR_MIN, stderr_to_stdout=True, tasks_per_node=submission.ranks)
    job: LocalJob = executor.submit(start, str(store.root), submission.number, index, submission.ranks)
    return job


def start(root: str, number: int, index: int, ranks: int) -> None:
    """What a local job runs: be one worker of a submission, or one of its ranks."""
    from batchgen.worker import main

    main(Path(root), Place(number, index, int(os.environ["SUBMITIT_LOCAL_LOCALID"]), ranks))


@dataclass(frozen=True)
class Element:
    """What every task of an element of the array runs: be one of its workers."""

    root: str
    number: int
    tasks: int
    ranks: int

    def __call__(self, element: int) -> None:
        """Work, and end the process without handing submitit a result: an incarnation before may have left half of one."""
        from batchgen.orders import Orders

        orders = Orders()
        orders.install()  # in the place of submitit's, which would requeue from here
        signal.signal(signal.SIGCONT, signal.SIG_DFL)  # comes before every other signal of SLURM's; submitit's handler only warns
        from batchgen.worker import main

        if given := slurm.devices():
            os.environ["CUDA_VISIBLE_DEVICES"] = given[int(os.environ["SLURM_LOCALID"]) % len(given)]
        task = element * self.tasks + int(os.environ["SLURM_PROCID"])
        main(Path(self.root), Place.of_task(self.number, task, self.ranks), orders)
        sys.exit(0)

    def checkpoint(self, _element: int) -> None:
        """Nothing: in the moment before our handlers are there, submitit's finds nothing to requeue."""


def launch_on(site: Site, run: Run, command: list[str], *, nodes: int | None = None, steal: bool = False) -> Submission:
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
    submission = submissions.record(run.store, command, elements * site.workers(ranks), steal=steal, site=site, ranks=ranks)
    arrays: dict[str, int] = {}
    try:
        for first, count in _portions(elements, most):
            running = max_running(site, ranks, elements) * count // elements
            arrays[_submit_array(run, submission, first, count, max(1, running))] = count
    except SiteError as refused:
        if arrays:
            taken = f"{sum(arrays.values())} of {elements} elements were submitted before, as {', '.join(arrays)}, and will work."
            raise SiteError(f"{refused}. {taken} batchgen resume {run.store.root} --add brings more") from None
        durable.remove(run.store.jobs / f"{submission.number:04d}.json")  # nothing was started: as if it had not been tried
        raise
    finally:
        if arrays:
            submissions.record_arrays(run.store, submission.number, arrays)
    return submission


def count_elements(site: Site, ranks: int, shards: int) -> int:
    """Elements of the job arrays: as many as the nodes make, and no more than shards give work to."""
    return min(site.nodes // site.span(ranks), -(-shards // site.workers(ranks)))


def max_running(site: Site, ranks: int, elements: int) -> int:
    """Elements that may work at the same time."""
    return site.max_running // site.span(ranks) if site.max_running else elements


def refuse_misfit(site: Site, job: Job) -> None:
    """Refuse what the job asks for and this site cannot give, and a machine that cannot submit.

    :raises SiteError: with the remedy.
    """
    if not shutil.which("sbatch"):
        raise SiteError(
            "sbatch: not found. Submit on a machine of the cluster's; without --site (resume: with --local) the run works here."
        )
    refuse_shape(site, job)


def refuse_shape(site: Site, job: Job) -> None:
    """Refuse a job whose workers do not fit the site's nodes.

    :raises SiteError: with the remedy.
    """
    if job.engine.device == "cuda" and not site.gpus_per_node:
        raise SiteError('engine.device = "cuda", and the site profile says gpus_per_node = 0')
    ranks, span = job.parallel.degree, site.span(job.parallel.degree)
    if max(ranks, site.tasks) % min(ranks, site.tasks):
        raise SiteError(
            f"parallel.cp = {ranks}, and the site profile has {site.tasks} tasks a node: neither divides the other. "
            "A node holds whole replicas, or a replica fills whole nodes."
        )
    for key, nodes in (("nodes", site.nodes), ("max_running", site.max_running)):
        if nodes and nodes % span:
            raise SiteError(
                f"{key} = {nodes}: parallel.cp = {ranks} fills {span} nodes of {site.tasks} tasks, so take a multiple of {span}"
            )
    if job.run.time_limit_s:
        raise SiteError("run.time_limit_s is for runs on this machine: take it out of the job file and set time in the site profile")


def script(site: Site, root: Path, run: str, elements: int, ranks: int = 1) -> str:
    """The batch script of the first submission of a run; nothing is sent."""
    from submitit.slurm.slurm import _make_sbatch_string

    folder = root / ".batchgen" / "jobs" / "0001" / "submitit"
    command = f"{_python(site)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    parameters = _parameters(site, root, run, 1, 0, max_running(site, ranks, elements), ranks)
    text: str = _make_sbatch_string(command=command, folder=folder, map_count=elements if elements > 1 else None, **parameters)
    return text


def _portions(elements: int, most: int) -> Iterator[tuple[int, int]]:
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
    root, number = run.store.root, submission.number
    with slurm.outside_of_a_job([name for name, key in OURS.items() if getattr(site, key, None)]), redirect_stderr(StringIO()):
        try:
            executor = submitit.SlurmExecutor(folder=_folder(run.store, number), python=_python(site))
            executor.update_parameters(**_parameters(site, root, run.plan.run, number, first, running, submission.ranks))
            tasks = site.tasks * site.span(submission.ranks)
            jobs = executor.map_array(Element(str(root), number, tasks, submission.ranks), range(first, first + count))
        except (FailedJobError, FailedSubmissionError) as error:
            raise SiteError(f"SLURM refuses the job: {'; '.join(str(error).splitlines())}") from None
    return str(jobs[0].job_id).partition("_")[0]


def _parameters(site: Site, root: Path, run: str, number: int, first: int, running: int, ranks: int) -> dict[str, Any]:
    """What submitit is to write into the batch script, and how srun is to start the tasks."""
    options = dict(option.removeprefix("--").partition("=")[::2] for option in site.sbatch)
    cpus = f"--cpus-per-task={site.cpus_per_gpu}"  # srun does not inherit it
    return {
        "job_name": f"batchgen-{root.name}",
        "comment": f"{slurm.label(run)}:{number} {site.comment}".strip(),
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "constraint": site.constraint,
        "nodes": site.span(ranks),
        "ntasks_per_node": site.tasks,
        "gpus_per_node": None if site.gres else site.gpus_per_node or None,
        "gres": site.gres,
        "cpus_per_task": site.cpus_per_gpu,
        "mem": site.mem,
        "time": -(-seconds(site.time) // 60),
        "wckey": None,  # submitit's own would be refused where such keys are registered
        "array_parallelism": running,
        "stderr_to_stdout": True,
        "setup": [TIMES, *site.setup, _first_line(site, root, run, number)],
        "srun_args": ["--kill-on-bad-exit=1", "--wait=0", cpus, *site.srun],
        "teardown": _last_lines(site, root, number, first),
        "additional_parameters": {
            "signal": f"USR2@{site.signal_s}",
            "requeue" if site.requeue else "no-requeue": True,
            **{name: value or True for name, value in options.items()},
        },
    }


def _first_line(site: Site, root: Path, run: str, number: int) -> str:
    """End here where this node, or the container it works in, does not see the run."""
    return f"{_python(site)} -m batchgen.arrive {shlex.quote(str(root))} {run} {number} || exit"


def _last_lines(site: Site, root: Path, number: int, first: int) -> list[str]:
    """Requeue, or not. A cancelled job does not come here: scancel ends the script as well.

    One element of the array has the array's own id for its SLURM_JOB_ID: by that name all elements would be requeued.
    """
    element = f"$(({first} + ${{SLURM_ARRAY_TASK_ID:-0}}))"
    decide = f"{_python(site)} -m batchgen.requeue {shlex.quote(str(root))} {number} {element} $code"
    name = '"${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"'
    return ["code=$?", f"{decide} && scontrol requeue {name}", "exit $code"]


def _python(site: Site) -> str:
    return site.python or shlex.quote(sys.executable)


def _folder(store: Store, number: int) -> Path:
    return submissions.folder(store, number) / "submitit"
