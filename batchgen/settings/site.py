"""Site profile: how work is asked for on one SLURM cluster. TOML file → frozen, strict `Site`.

A profile says nothing about pictures: a run may be begun with one profile and go on with another, or without SLURM.
`slurm/example.toml` shows every key.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator

from batchgen.errors import SiteError
from batchgen.settings.section import Section

_TIME = re.compile(
    r"^(?:(?P<days>\d+)-(?P<hours>\d+)(?::(?P<min>\d+))?(?::(?P<sec>\d+))?|(?:(?:(?P<h>\d+):)?(?P<m>\d+):(?P<s>\d+)|(?P<only>\d+)))$"
)
_MEM = re.compile(r"^\d+[KMGT]?$")
OURS = {  # options of sbatch that batchgen sets, and the key of the profile they come from; "" where there is none
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
    **dict.fromkeys(
        (
            "ntasks",
            "ntasks-per-node",
            "output",
            "error",
            "open-mode",
            "wrap",
            "test-only",
            "parsable",
            "wait",
        ),
        "",
    ),
}


def seconds(text: str) -> int:
    """A SLURM time (`MIN`, `MIN:SEC`, `H:MIN:SEC`, `D-H`, `D-H:MIN`, `D-H:MIN:SEC`) in seconds.

    :raises ValueError: it is none of these.
    """
    match = _TIME.match(text)
    if match is None:
        raise ValueError(
            'a time as SLURM takes it, such as "30" (minutes), "04:00:00" or "2-12:00:00"'
        )
    part = {name: int(digits or 0) for name, digits in match.groupdict().items()}
    return (
        (
            (part["days"] * 24 + part["hours"] + part["h"]) * 60
            + part["min"]
            + part["m"]
            + part["only"]
        )
        * 60
        + part["sec"]
        + part["s"]
    )


def _time(text: str) -> str:
    if seconds(text) == 0:
        raise ValueError("a time limit of nothing")
    return text


def _memory(text: str) -> str:
    if not _MEM.match(text):
        raise ValueError('an amount as SLURM takes it, such as "64G"; "0" for all of a node')
    return text


def _sbatch(options: tuple[str, ...]) -> tuple[str, ...]:
    for option in options:
        name, _, _ = option.removeprefix("--").partition("=")
        if not re.match(r"^--[a-z][a-z-]*(=.+)?$", option):
            raise ValueError(f"{option!r}: expected --option or --option=value")
        if name in OURS:
            raise ValueError(
                f"{option!r}: set {OURS[name]} in the profile instead"
                if OURS[name]
                else f"{option!r}: batchgen sets it itself"
            )
    return options


Text = Annotated[str, Field(min_length=1)]
Lines = Annotated[tuple[str, ...], Field(strict=False)]


class Site(Section):
    """A whole profile."""

    partition: Text | None = Field(
        default=None, description="sbatch --partition; absent: the cluster's default"
    )
    account: Text | None = Field(default=None, description="sbatch --account")
    qos: Text | None = Field(default=None, description="sbatch --qos")
    constraint: Text | None = Field(
        default=None, description='sbatch --constraint, for example "h100"'
    )
    nodes: int = Field(
        default=1,
        ge=1,
        description="nodes to work on; each, or as many as a worker fills, is an element of the job array",
    )
    max_running: int | None = Field(
        default=None, ge=1, description="nodes that may work at the same time; absent: all"
    )
    gpus_per_node: int = Field(
        ge=0,
        description="GPUs of a node, and so workers; 0 for a cluster without, with workers_per_node",
    )
    workers_per_node: int | None = Field(
        default=None, ge=1, description="workers of a node; absent: one a GPU"
    )
    gres: Text | None = Field(
        default=None,
        description='how GPUs are asked for where it is not --gpus-per-node, for example "gpu:h100:8"',
    )
    cpus_per_gpu: int = Field(default=4, ge=1, description="CPU cores of a worker")
    mem: Annotated[str, AfterValidator(_memory)] | None = Field(
        default=None, description='memory of a node, for example "480G"; "0": all of it'
    )
    time: Annotated[str, AfterValidator(_time)] = Field(
        description="time limit of an allocation; work goes on in the next one"
    )
    signal_s: int = Field(
        default=120,
        ge=15,
        le=3600,
        description="seconds before the time limit when workers are told to leave",
    )
    requeue: bool = Field(
        default=True,
        description="go on in a new allocation after a time limit, a preemption or a death",
    )
    setup: Lines = Field(
        default=(), description="shell lines run on the node first: modules, exports"
    )
    python: Text | None = Field(
        default=None, description="shell words that run Python on a node; absent: this Python"
    )
    sbatch: Annotated[Lines, AfterValidator(_sbatch)] = Field(
        default=(), description="further options of sbatch"
    )
    srun: Lines = Field(default=(), description="further options of srun")
    comment: str = Field(default="", description="put behind the run's id in the job's comment")
    gpu_memory_gib: float | None = Field(
        default=None,
        gt=0,
        description="memory of a GPU, for example 80: jobs that need more are refused when they are planned",
    )
    gpu_capability: Annotated[str, Field(pattern=r"^\d+\.\d$")] | None = Field(
        default=None,
        description='compute capability of the GPUs, for example "9.0" for an H100: what they cannot compute is refused likewise',
    )
    poll_s: float = Field(
        default=60.0,
        gt=0,
        description="least seconds between two questions of one worker to squeue",
    )

    @model_validator(mode="after")
    def _has_workers(self) -> Site:
        if self.gpus_per_node == 0 and self.workers_per_node is None:
            raise ValueError(
                "gpus_per_node = 0: say how many workers a node has, with workers_per_node"
            )
        if (
            self.gpus_per_node
            and (self.workers_per_node or self.gpus_per_node) > self.gpus_per_node
        ):
            raise ValueError(
                f"workers_per_node = {self.workers_per_node} > gpus_per_node = {self.gpus_per_node}: a worker has a GPU of its own"
            )
        return self

    @property
    def tasks(self) -> int:
        """Processes of a node: workers of one rank."""
        return self.workers_per_node or self.gpus_per_node

    def span(self, ranks: int) -> int:
        """Nodes of an element of the array: one, or those that a worker of so many ranks fills."""
        return max(1, ranks // self.tasks)

    def workers(self, ranks: int) -> int:
        """Workers of so many ranks in an element."""
        return max(1, self.tasks // ranks)


def load_site(path: Path) -> Site:
    """Read a profile.

    :raises SiteError: unreadable file, unknown key, impossible value; the message lists what is accepted.
    """
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SiteError(
            f"{path}: no such site profile. slurm/example.toml is one to copy."
        ) from None
    except (OSError, ValueError) as error:  # TOML and Unicode errors are ValueErrors
        raise SiteError(f"{path}: cannot be read as a TOML file: {error}") from None
    try:
        return Site.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(e["loc"], e["msg"], e["type"], e.get("input")) for e in error.errors()]
        raise SiteError(f"{path}:\n  " + "\n  ".join(lines)) from None


def _explain(loc: tuple[Any, ...], message: str, kind: str, given: Any) -> str:
    name = str(loc[0]) if loc else ""
    message = message.removeprefix("Value error, ")
    if kind == "extra_forbidden":
        return f"{name}: unknown key; accepted: {', '.join(Site.model_fields)}"
    if not name:
        return message
    what = Site.model_fields[name].description
    return (
        f"{name}: missing; it is: {what}"
        if kind == "missing"
        else f"{name} = {given!r}: {message}; {name} is: {what}"
    )
