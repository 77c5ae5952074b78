"""batchgen.launch.batch_script."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from batchgen import slurm
from batchgen.launch.elements import max_running
from batchgen.settings import Site, seconds

TIMES = (  # the job's own times, for the worker's deadline: older SLURMs do not put them into the environment
    'export $(SLURM_TIME_FORMAT=%s squeue --noheader --jobs="$SLURM_JOB_ID" '
    '--format="SLURM_JOB_START_TIME=%S SLURM_JOB_END_TIME=%e") > /dev/null'
)


def script(site: Site, root: Path, run: str, elements: int, ranks: int = 1) -> str:
    """The batch script of the first submission of a run; nothing is sent."""
    from submitit.slurm.slurm import _make_sbatch_string

    folder = root / ".batchgen" / "jobs" / "0001" / "submitit"
    command = f"{python_command(site)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    parameters = sbatch_parameters(site, root, run, 1, 0, max_running(site, ranks, elements), ranks)
    text: str = _make_sbatch_string(
        command=command, folder=folder, map_count=elements if elements > 1 else None, **parameters
    )
    return text


def sbatch_parameters(
    site: Site, root: Path, run: str, number: int, first: int, running: int, ranks: int
) -> dict[str, Any]:
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
    return f"{python_command(site)} -m batchgen.launch.node_check {shlex.quote(str(root))} {run} {number} || exit"


def _last_lines(site: Site, root: Path, number: int, first: int) -> list[str]:
    """Requeue, or not. A cancelled job does not come here: scancel ends the script as well.

    One element of the array has the array's own id for its SLURM_JOB_ID: by that name all elements would be requeued.
    """
    element = f"$(({first} + ${{SLURM_ARRAY_TASK_ID:-0}}))"
    decide = f"{python_command(site)} -m batchgen.launch.requeue {shlex.quote(str(root))} {number} {element} $code"
    name = '"${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"'
    return ["code=$?", f"{decide} && scontrol requeue {name}", "exit $code"]


def python_command(site: Site) -> str:
    return site.python or shlex.quote(sys.executable)
