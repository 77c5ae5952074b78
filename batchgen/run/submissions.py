"""Submissions of a run and the processes that belong to them, recorded in `.batchgen/jobs/`.

jobs/0001.json               what was submitted: when, by which command, workers, settings, software
jobs/0001/supervisor.json    the local supervisor
jobs/0001/worker-003.00.json worker 3, first incarnation; after a death or in the next allocation 003.01
jobs/0001/worker-003.00.made it wrote a group; renewed with every group
jobs/0001/worker-003.00.end  it left in good order, and why; a dead process leaves none
jobs/0001/slurm.json         ids of the submission's job arrays
jobs/0001/element-003.over   element 3 of the arrays does not go on, and why
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from batchgen import durable
from batchgen.planning import software
from batchgen.process import Life
from batchgen.run.departures import Departure
from batchgen.run.directory import RunDirectory
from batchgen.run.owner import Owner
from batchgen.settings import Section, Site
from batchgen.slurm import Queue

Role = Literal["supervisor", "worker"]
_MEMBER = re.compile(r"^(supervisor|worker-(\d+)\.(\d+))\.json$")


class Submission(Section):
    """One `submit` or `resume`, as recorded."""

    number: int
    at: float  # seconds since the epoch
    command: tuple[str, ...]
    host: str
    workers: int
    ranks: int = 1  # processes of a worker
    devices: tuple[str, ...]  # entries of CUDA_VISIBLE_DEVICES, one a process; empty on CPU
    deadline: float | None  # seconds since the epoch
    steal: bool
    software: dict[str, str]
    site: Site | None = None  # where it went, if not to this machine

    def of_element(self, element: int) -> range:
        """The workers of an element of its job arrays."""
        workers = self.site.workers(self.ranks) if self.site else 1
        return range(element * workers, (element + 1) * workers)


@dataclass(frozen=True, slots=True)
class Member:
    """A process of a submission."""

    path: Path
    role: Role
    index: int
    owner: Owner
    # None while it lives, and if it died.
    departure: Departure | None

    def life(self, queue: Queue | None = None) -> Life:
        """Whether it lives."""
        return "dead" if self.departure else self.owner.life(queue)

    @property
    def made(self) -> bool:
        """Whether it wrote a group."""
        return self.path.with_suffix(".made").exists()


def record_submission(
    directory: RunDirectory,
    command: list[str],
    workers: int,
    devices: tuple[str, ...] = (),
    *,
    deadline: float | None = None,
    steal: bool = False,
    site: Site | None = None,
    ranks: int = 1,
) -> Submission:
    """Record a new submission under the next free number; two at once get two numbers."""
    number = max((submission.number for submission in read_submissions(directory)), default=0)
    while True:
        number += 1
        submission = Submission(
            number=number,
            at=time.time(),
            command=tuple(command),
            host=socket.gethostname(),
            workers=workers,
            ranks=ranks,
            devices=devices,
            deadline=deadline,
            steal=steal,
            software=software(),
            site=site,
        )
        if durable.create(
            directory.jobs / f"{number:04d}.json", submission.model_dump_json(indent=1).encode()
        ):
            folder(directory, number).mkdir(exist_ok=True)
            return submission


def read_submissions(directory: RunDirectory) -> list[Submission]:
    """All submissions, oldest first."""
    return [
        Submission.model_validate_json(path.read_bytes())
        for path in sorted(directory.jobs.glob("[0-9]*.json"))
    ]


def read_submission(directory: RunDirectory, number: int) -> Submission:
    """One submission."""
    return Submission.model_validate_json((directory.jobs / f"{number:04d}.json").read_bytes())


def queue_of(directory: RunDirectory) -> Queue:
    """For asking SLURM about the workers of a run, as often as its last site profile allows."""
    return next(
        (
            Queue(submission.site.poll_s)
            for submission in reversed(read_submissions(directory))
            if submission.site
        ),
        Queue(),
    )


def folder(directory: RunDirectory, number: int) -> Path:
    """Where its processes register."""
    return directory.jobs / f"{number:04d}"


def join(directory: RunDirectory, number: int, role: Role, index: int = 0) -> Path:
    """Register this process; the path to `leave` with."""
    text = json.dumps(asdict(Owner.me())).encode()
    if role == "supervisor":
        path = folder(directory, number) / "supervisor.json"
        durable.create(path, text)
        return path
    incarnation = 0
    while not durable.create(
        path := folder(directory, number) / f"worker-{index:03d}.{incarnation:02d}.json", text
    ):
        incarnation += 1
    return path


def leave(path: Path, departure: Departure) -> None:
    """Say that the process which joined as `path` ends in good order."""
    durable.create(path.with_suffix(".end"), str(departure).encode())


def members(directory: RunDirectory) -> Iterator[Member]:
    """All processes of all submissions, the latest submission first."""
    for jobs in sorted((path for path in directory.jobs.iterdir() if path.is_dir()), reverse=True):
        yield from members_of(directory, int(jobs.name))


def members_of(directory: RunDirectory, number: int) -> Iterator[Member]:
    """All processes of a submission; the incarnations of a worker in their order."""
    for path in sorted(folder(directory, number).iterdir()):
        if match := _MEMBER.match(path.name):
            end = path.with_suffix(".end")
            departure = Departure.parse(end.read_text()) if end.exists() else None
            role: Role = "worker" if match[2] else "supervisor"
            yield Member(
                path, role, int(match[2] or 0), Owner(**json.loads(path.read_bytes())), departure
            )


def record_arrays(directory: RunDirectory, number: int, arrays: dict[str, int]) -> None:
    """Note under which ids SLURM has taken a submission, and how many elements each array has."""
    durable.create(folder(directory, number) / "slurm.json", json.dumps(arrays).encode())


def arrays_of(directory: RunDirectory, number: int) -> dict[str, int]:
    """The ids under which SLURM has taken a submission, and how many elements each array has."""
    path = folder(directory, number) / "slurm.json"
    return (
        {str(array): int(count) for array, count in json.loads(path.read_bytes()).items()}
        if path.exists()
        else {}
    )


def elements_of(directory: RunDirectory, number: int) -> list[str]:
    """The jobs of a submission's elements in their order, as people type them: 4711_3, or 4711 where it is alone in its array."""
    arrays = arrays_of(directory, number).items()
    return [
        f"{array}_{element}" if count > 1 else array
        for array, count in arrays
        for element in range(count)
    ]


def batch_log(directory: RunDirectory, number: int, job: str) -> Path:
    """What the batch script of a job prints; SLURM makes it when the job begins."""
    return folder(directory, number) / "submitit" / f"{job}_0_log.out"


def give_up(directory: RunDirectory, number: int, element: int, reason: str) -> None:
    """Say that an element does not go on although there is work; `given_up` tells why."""
    durable.replace(folder(directory, number) / f"element-{element:03d}.over", reason.encode())


def given_up(directory: RunDirectory, number: int) -> list[str]:
    """Why elements of a submission did not go on."""
    return [path.read_text() for path in sorted(folder(directory, number).glob("element-*.over"))]


def log_file(directory: RunDirectory, number: int, index: int) -> Path:
    """What worker `index` of a submission prints, over all its incarnations."""
    return directory.logs / f"{number:04d}-worker-{index:03d}.log"
