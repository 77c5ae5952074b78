"""Site profile: how to ask one SLURM cluster for work. TOML file → frozen, strict `Site`.

A profile says nothing about pictures. A run may begin with one profile and go on with another, or
without SLURM. `slurm/example.toml` shows every key.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from batchgen.errors import SiteError
from batchgen.settings.section import Section, parse, read_toml, setting

# Options of sbatch that batchgen sets, and the key of the profile that each comes from.
OURS = {
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "nodes": "nodes",
    "array": "nodes and max_running",
    "gpus-per-node": "gpus_per_node",
    "gres": "gres",
    "cpus-per-task": "cpus_per_gpu",
    "mem": "mem",
    "time": "time",
    "signal": "signal_s",
    "requeue": "requeue",
    "no-requeue": "requeue",
    "comment": "comment",
}
# Options that batchgen sets and that no key of the profile changes.
_FIXED = (
    *("ntasks", "ntasks-per-node", "output", "error", "open-mode"),
    *("wrap", "test-only", "parsable", "wait"),
)


def seconds(text: str) -> int:
    """The seconds of a SLURM time: `MIN`, `MIN:SEC`, `H:MIN:SEC`, `D-H`, `D-H:MIN`, `D-H:MIN:SEC`.

    :raises ValueError: the text is none of these.
    """
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text):
        examples = '"30" (minutes), "04:00:00" or "2-12:00:00"'
        raise ValueError(f"a time as SLURM takes it, such as {examples}")
    days, _, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if not days and len(parts) < 3:  # without days, the first of one or two numbers is minutes
        parts.insert(0, 0)
    hours, minutes, rest = (*parts, 0, 0)[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + rest


def _time(text: str) -> str:
    if seconds(text) == 0:
        raise ValueError("a time limit of nothing")
    return text


def _memory(text: str) -> str:
    if not re.fullmatch(r"\d+[KMGT]?", text):
        raise ValueError('an amount as SLURM takes it, such as "64G"; "0" for all of a node')
    return text


def _sbatch(options: tuple[str, ...]) -> tuple[str, ...]:
    for option in options:
        name, _, _ = option.removeprefix("--").partition("=")
        if not re.match(r"^--[a-z][a-z-]*(=.+)?$", option):
            raise ValueError(f"{option!r}: expected --option or --option=value")
        if name in OURS:
            raise ValueError(f"{option!r}: set {OURS[name]} in the profile instead")
        if name in _FIXED:
            raise ValueError(f"{option!r}: batchgen sets it itself")
    return options


Text = Annotated[str, Field(min_length=1)]
Time = Annotated[str, AfterValidator(_time)]
Memory = Annotated[str, AfterValidator(_memory)]
Capability = Annotated[str, Field(pattern=r"^\d+\.\d$")]
Lines = Annotated[tuple[str, ...], Field(strict=False)]
Options = Annotated[Lines, AfterValidator(_sbatch)]


class Site(Section):
    """A whole profile."""

    partition: Text | None = setting(None, "sbatch --partition; absent: the cluster's default")
    account: Text | None = setting(None, "sbatch --account")
    qos: Text | None = setting(None, "sbatch --qos")
    constraint: Text | None = setting(None, 'sbatch --constraint, for example "h100"')
    nodes: int = setting(
        1,
        "nodes to work on; an element of the job array has one, or as many as one worker fills",
        ge=1,
    )
    max_running: int | None = setting(
        None, "nodes that may work at the same time; absent: all", ge=1
    )
    gpus_per_node: int = Field(
        ge=0, description="GPUs of a node; 0 for a cluster without, which needs workers_per_node"
    )
    workers_per_node: int | None = setting(
        None, "workers of a node; absent: one for each GPU", ge=1
    )
    gres: Text | None = setting(
        None, 'sbatch --gres, where --gpus-per-node does not work, for example "gpu:h100:8"'
    )
    cpus_per_gpu: int = setting(4, "CPU cores of a worker", ge=1)
    mem: Memory | None = setting(None, 'memory of a node, for example "480G"; "0": all of it')
    time: Time = Field(description="time limit of an allocation; the work goes on in the next one")
    signal_s: int = setting(
        120, "seconds before the time limit when workers are told to leave", ge=15, le=3600
    )
    requeue: bool = setting(
        True, "go on in a new allocation after a time limit, a preemption or a death"
    )
    setup: Lines = setting((), "shell lines that a node runs first: modules, exports")
    python: Text | None = setting(
        None, "shell words that run Python on a node; absent: this Python"
    )
    sbatch: Options = setting((), "further options of sbatch")
    srun: Lines = setting((), "further options of srun")
    comment: str = setting("", "text after the run's id in the job's comment")
    gpu_memory_gib: float | None = setting(
        None, "memory of a GPU, for example 80: planning refuses jobs that need more", gt=0
    )
    gpu_capability: Capability | None = setting(
        None,
        'compute capability of the GPUs, for example "9.0" for an H100: planning refuses jobs '
        "that need what they cannot compute",
    )
    price_per_gpu_hour: float | None = setting(
        None, "in your money: plan and status tell what a run costs", gt=0, le=1e6
    )
    poll_s: float = setting(60.0, "least seconds between two squeue calls of one worker", gt=0)

    @model_validator(mode="after")
    def _has_workers(self) -> Site:
        gpus, workers = self.gpus_per_node, self.workers_per_node
        if not gpus and not workers:
            remedy = "say how many workers a node has, with workers_per_node"
            raise ValueError(f"gpus_per_node = 0: {remedy}")
        if gpus and workers and workers > gpus:
            needs = "each worker needs a GPU of its own"
            raise ValueError(f"workers_per_node = {workers} > gpus_per_node = {gpus}: {needs}")
        return self

    @model_validator(mode="after")
    def _describes_gpus(self) -> Site:
        of_gpus = ("gpu_memory_gib", "gpu_capability", "price_per_gpu_hour")
        described = [f"{key} = {value}" for key, value in self if key in of_gpus and value]
        if described and not self.gpus_per_node:
            told = f"{' and '.join(described)} with gpus_per_node = 0"
            raise ValueError(f"{told}: there is no GPU to describe; leave it out")
        return self

    @property
    def tasks(self) -> int:
        """Processes of a node, if a worker is one process."""
        return self.workers_per_node or self.gpus_per_node

    def span(self, ranks: int) -> int:
        """Nodes of an element of the job array, when a worker has `ranks` processes."""
        return max(1, ranks // self.tasks)

    def workers(self, ranks: int) -> int:
        """Workers of an element of the job array, when a worker has `ranks` processes."""
        return max(1, self.tasks // ranks)


def load_site(path: Path) -> Site:
    """Read a profile.

    :raises SiteError: unreadable file, unknown key, impossible value; the message lists what is
        accepted.
    """
    missing = "no such site profile. slurm/example.toml is one to copy."
    content = read_toml(path, error=SiteError, missing=missing)
    return parse(Site, content, where=str(path), error=SiteError)
