"""The batch script of a job array, and the options of sbatch and srun in it.

The script first asks node_check.py whether the node sees the run. Then srun starts the tasks. At
last the script asks requeue.py whether the element goes on in a new allocation.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from batchgen import slurm
from batchgen.launch.elements import max_running
from batchgen.run import RunDirectory, submissions
from batchgen.settings import Site, seconds

# With sbatch --export=NONE, srun would hide from its tasks what the script has set for them.
_ENVIRONMENT = "unset SLURM_EXPORT_ENV"
# The start and the end of the job, for the worker's deadline. Older SLURMs do not export them.
_TIMES = (
    'export $(SLURM_TIME_FORMAT=%s squeue --noheader --jobs="$SLURM_JOB_ID" '
    '--format="SLURM_JOB_START_TIME=%S SLURM_JOB_END_TIME=%e") > /dev/null'
)
# The element's own name. One element of an array has the array's id as its SLURM_JOB_ID, and to
# requeue that id would requeue all elements.
_ELEMENT = '"${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"'


def script(site: Site, root: Path, run: str, elements: int, ranks: int = 1) -> str:
    """The batch script of a run's first submission. Nothing is sent.

    :param run: the run's id.
    :param ranks: processes of a worker.
    """
    from submitit.slurm.slurm import _make_sbatch_string

    folder = submissions.submitit_folder(RunDirectory(root), 1)
    command = f"{python_command(site)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    running = max_running(site, ranks, elements)
    text: str = _make_sbatch_string(
        command=command,
        folder=folder,
        map_count=elements if elements > 1 else None,
        **sbatch_parameters(site, root, run, 1, 0, running, ranks),
    )
    return text


def sbatch_parameters(
    site: Site, root: Path, run: str, number: int, first: int, running: int, ranks: int
) -> dict[str, Any]:
    """Everything that submitit writes into the batch script of one array.

    :param number: of the submission.
    :param first: the array's first element, counted over all arrays of the submission.
    :param running: elements that may work at the same time.
    """
    check = _first_line(site, root, run, number)
    ours = site_parameters(site, check)
    return {
        **ours,
        "job_name": f"batchgen-{root.name}",
        "comment": f"{slurm.label(run)}:{number} {site.comment}".strip(),
        "nodes": site.span(ranks),
        "ntasks_per_node": site.tasks,
        "time": -(-seconds(site.time) // 60),
        "array_parallelism": running,
        "teardown": _last_lines(site, root, number, first),
        "additional_parameters": {
            "signal": f"USR2@{site.signal_s}",
            "requeue" if site.requeue else "no-requeue": True,
            **ours["additional_parameters"],
        },
    }


def site_parameters(site: Site, *lines: str) -> dict[str, Any]:
    """What a site's profile asks of SLURM, for whatever job.

    :param lines: of the batch script, after the profile's own `setup`.
    """
    cpus = f"--cpus-per-task={site.cpus_per_gpu}"  # srun does not inherit it
    return {
        "partition": site.partition,
        "account": site.account,
        "qos": site.qos,
        "constraint": site.constraint,
        "gpus_per_node": None if site.gres else site.gpus_per_node or None,
        "gres": site.gres,
        "cpus_per_task": site.cpus_per_gpu,
        "mem": site.mem,
        "wckey": None,  # clusters that register such keys would refuse submitit's own
        "stderr_to_stdout": True,
        "setup": [_ENVIRONMENT, _TIMES, *site.setup, *lines],
        "srun_args": ["--kill-on-bad-exit=1", "--wait=0", cpus, *site.srun],
        "additional_parameters": {
            name: value or True for name, value in sbatch_options(site).items()
        },
    }


def sbatch_options(site: Site) -> dict[str, str]:
    """The profile's further options of sbatch: name → value; "" where it has none."""
    return dict(option.removeprefix("--").partition("=")[::2] for option in site.sbatch)


def _first_line(site: Site, root: Path, run: str, number: int) -> str:
    """End the script if this node, or the container it works in, does not see the run."""
    check = f"{python_command(site)} -m batchgen.launch.node_check"
    return f"{check} {shlex.quote(str(root))} {run} {number} || exit"


def _last_lines(site: Site, root: Path, number: int, first: int) -> list[str]:
    """Requeue the element if it goes on. scancel ends a script before these lines."""
    ask = f"{python_command(site)} -m batchgen.launch.requeue {shlex.quote(str(root))}"
    element = f"$(({first} + ${{SLURM_ARRAY_TASK_ID:-0}}))"
    requeue = f"{ask} {number} {element} $code && scontrol requeue {_ELEMENT}"
    return ["code=$?", requeue, "exit $code"]


def python_command(site: Site) -> str:
    """Shell words that run Python on a node.

    With -P it imports nothing from the folder that `submit` was typed in: a `random.py` there would
    take the place of Python's own.
    """
    return f"{site.python or shlex.quote(sys.executable)} -P"
