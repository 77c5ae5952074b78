"""Submissions of a run and the processes that belong to them, recorded in `.batchgen/jobs/`.

0001.json               what was submitted, when, by which command
0001/supervisor.json    the supervisor on this machine
0001/worker-003.00.json the first process of worker 3; its successors are 003.01, 003.02, …
0001/worker-003.00.made its last change is the time of the last group that the process wrote
0001/worker-003.00.stage what the process does and has made, for people (stages.py)
0001/worker-003.00.end  why the process left in good order; a process that died has none
0001/…                  the submission's job arrays in SLURM (job_arrays.py)
0001/submitit/          files of submitit, logs of batch scripts among them
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from batchgen import durable
from batchgen.errors import DamagedRun
from batchgen.planning import software
from batchgen.process import Life
from batchgen.regular_file import read_regular
from batchgen.run.departures import Departure, LeaveCause
from batchgen.run.directory import PRIVATE, RunDirectory
from batchgen.run.owner import Owner
from batchgen.run.state_file import read_state, read_words
from batchgen.settings import Section, Site
from batchgen.slurm import Queue

Role = Literal["supervisor", "worker"]
# Lines of faulthandler.
_OF_A_STACK = re.compile(r"  File \"|Thread 0x|Current thread 0x|Extension modules: ")
_MEMBER = re.compile(r"^(supervisor|worker-(\d+)\.(\d+))\.json$")


class Submission(Section):
    """One `submit` or `resume`, as recorded."""

    number: int
    # Seconds since the epoch.
    at: float
    command: tuple[str, ...]
    host: str
    workers: int
    # Processes of one worker.
    ranks: int = 1
    # One entry of CUDA_VISIBLE_DEVICES for each process; empty on CPU.
    devices: tuple[str, ...]
    # Seconds since the epoch.
    deadline: float | None
    # Whether workers take shards from workers on other machines, whose state is unknown.
    steal: bool
    software: dict[str, str]
    # The cluster it was submitted to; None if its workers run on this machine.
    site: Site | None = None

    def of_element(self, element: int) -> range:
        """The workers of one element of the job arrays."""
        workers = self.site.workers(self.ranks) if self.site else 1
        return range(element * workers, (element + 1) * workers)


@dataclass(frozen=True, slots=True)
class Member:
    """A process of a submission."""

    path: Path
    role: Role
    # Of the worker; 0 for a supervisor.
    index: int
    owner: Owner
    # None while the process lives, and if it died.
    departure: Departure | None

    def life(self, queue: Queue | None = None) -> Life:
        """Whether the process lives. SLURM is asked through `queue`, if the process is SLURM's."""
        return "dead" if self.departure else self.owner.life(queue)

    @property
    def submission(self) -> int:
        """The number of its submission."""
        return int(self.path.parent.name)

    @property
    def made(self) -> bool:
        """Whether the process wrote a group."""
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
    """Record a submission under the next free number. Two at the same time get two numbers."""
    # Also the folder of a submission whose record a person moved away has its number.
    number = max((int(path.stem) for path in directory.jobs.iterdir() if _is_ours(path)), default=0)
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
        text = submission.model_dump_json(indent=1)
        if durable.create(submission_file(directory, number), text.encode()):
            for own in (folder(directory, number), submitit_folder(directory, number)):
                own.mkdir(PRIVATE, exist_ok=True)
            return submission


def _is_ours(path: Path) -> bool:
    """Whether a name in `jobs/` is that of a submission."""
    return path.stem.isdecimal() and path.suffix in ("", ".json")


def submission_file(directory: RunDirectory, number: int) -> Path:
    """The record of a submission."""
    return directory.jobs / f"{number:04d}.json"


def read_submissions(directory: RunDirectory) -> list[Submission]:
    """All submissions, oldest first.

    :raises DamagedRun: a record is damaged.
    """
    paths = sorted(path for path in directory.jobs.glob("*.json") if _is_ours(path))
    return [read_state(path, Submission) for path in paths]


def read_submission(directory: RunDirectory, number: int) -> Submission:
    """One submission.

    :raises DamagedRun: its record is damaged.
    """
    return read_state(submission_file(directory, number), Submission)


def queue_of(directory: RunDirectory) -> Queue:
    """A SLURM queue that is asked no more often than the run's last site profile allows."""
    sites = [submission.site for submission in read_submissions(directory) if submission.site]
    return Queue(sites[-1].poll_s) if sites else Queue()


def folder(directory: RunDirectory, number: int) -> Path:
    """Where the processes of a submission register."""
    return directory.jobs / f"{number:04d}"


def submitit_folder(directory: RunDirectory, number: int) -> Path:
    """Where submitit keeps its files of a submission."""
    return folder(directory, number) / "submitit"


def join(directory: RunDirectory, number: int, role: Role, index: int = 0) -> Path:
    """Register this process. Its file, which is returned, is what it leaves with."""
    text = json.dumps(asdict(Owner.me())).encode()
    jobs = folder(directory, number)
    if role == "supervisor":
        durable.create(path := jobs / "supervisor.json", text)
        return path
    incarnation = 0
    while not durable.create(path := jobs / f"worker-{index:03d}.{incarnation:02d}.json", text):
        incarnation += 1
    return path


def leave(path: Path, departure: Departure) -> None:
    """Record that the process which joined as `path` leaves in good order."""
    durable.create(path.with_suffix(".end"), str(departure).encode())


def members(directory: RunDirectory) -> Iterator[Member]:
    """All processes of all submissions, the latest submission first."""
    folders = (path for path in directory.jobs.iterdir() if path.is_dir() and _is_ours(path))
    for jobs in sorted(folders, reverse=True):
        yield from members_of(directory, int(jobs.name))


def members_of(directory: RunDirectory, number: int) -> Iterator[Member]:
    """All processes of a submission; those of one worker in the order of their starts."""
    for path in sorted(folder(directory, number).iterdir()):
        if match := _MEMBER.match(path.name):
            end = path.with_suffix(".end")
            departure = Departure.parse(_words(end, _changed(end))) if end.exists() else None
            role: Role = "worker" if match[2] else "supervisor"
            try:
                owner = _owner(path, _changed(path))
            except DamagedRun:  # who it was is lost, so it cannot be asked whether it lives
                owner = Owner("unknown", 0, 0.0)
                departure = departure or Departure(LeaveCause.ERROR, f"{path} is damaged")
            yield Member(path, role, int(match[2] or 0), owner, departure)


def _changed(path: Path) -> int:
    """When a file was last changed, ns. Who looks at a run again opens only what has changed."""
    return path.stat().st_mtime_ns


@lru_cache(maxsize=4096)
def _owner(path: Path, changed_ns: int) -> Owner:  # noqa: ARG001 - a changed file is read anew
    return read_state(path, Owner)


@lru_cache(maxsize=4096)
def _words(path: Path, changed_ns: int) -> str:  # noqa: ARG001 - likewise
    return read_words(path)


def log_file(directory: RunDirectory, number: int, index: int) -> Path:
    """What all processes of worker `index` of a submission print."""
    return directory.logs / f"{number:04d}-worker-{index:03d}.log"


def supervisor_log(directory: RunDirectory, number: int) -> Path:
    """What the supervisor of a submission prints. It is silent unless it fails."""
    return directory.logs / f"{number:04d}-supervisor.log"


def batch_log(directory: RunDirectory, number: int, job: str) -> Path:
    """What the batch script of a job prints. SLURM makes the file when the job begins."""
    return submitit_folder(directory, number) / f"{job}_0_log.out"


def own_lines(log: Path) -> list[str]:
    """The lines of a log without those of submitit; none if there is no log."""
    lines = read_regular(log).decode(errors="replace").splitlines() if log.is_file() else []
    return [line for line in lines if "submitit INFO" not in line]


def last_line(log: Path) -> str:
    """The last line of a log; empty ones and stacks of a hung process do not count."""
    lines = (line for line in reversed(own_lines(log)) if line.strip())
    return next((line for line in lines if not _OF_A_STACK.match(line)), "it printed nothing")
