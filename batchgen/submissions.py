"""Submissions of a run and the processes that belong to them, recorded in `.batchgen/jobs/`.

jobs/0001.json               what was submitted: when, by which command, workers, settings, software
jobs/0001/supervisor.json    the local supervisor
jobs/0001/worker-003.00.json worker 3, first incarnation; after a death 003.01
jobs/0001/worker-003.00.end  it left in good order, and why; a dead process leaves none
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
from batchgen.claims import Life, Owner
from batchgen.job import Section
from batchgen.plan import software
from batchgen.store import Store

Role = Literal["supervisor", "worker"]
NOTHING_FREE = "nothing free: others work on the rest"  # why workers leave, where others act on it
SICK = "SickDevice"
DEADLINE = "deadline"
_MEMBER = re.compile(r"^(supervisor|worker-(\d+)\.(\d+))\.json$")


class Submission(Section):
    """One `submit` or `resume`, as recorded."""

    number: int
    at: float  # seconds since the epoch
    command: tuple[str, ...]
    host: str
    workers: int
    devices: tuple[str, ...]  # entries of CUDA_VISIBLE_DEVICES, one a worker; empty on CPU
    deadline: float | None  # seconds since the epoch
    steal: bool
    software: dict[str, str]


@dataclass(frozen=True, slots=True)
class Member:
    """A process of a submission."""

    path: Path
    role: Role
    index: int
    owner: Owner
    ended: str  # why it left in good order; "" while it lives or if it died

    def life(self) -> Life:
        """Whether it lives."""
        return "dead" if self.ended else self.owner.life()


def record(
    store: Store, command: list[str], workers: int, devices: tuple[str, ...], *, deadline: float | None = None, steal: bool = False
) -> Submission:
    """Record a new submission under the next free number; two at once get two numbers."""
    number = max((submission.number for submission in submissions(store)), default=0)
    while True:
        number += 1
        submission = Submission(
            number=number,
            at=time.time(),
            command=tuple(command),
            host=socket.gethostname(),
            workers=workers,
            devices=devices,
            deadline=deadline,
            steal=steal,
            software=software(),
        )
        if durable.create(store.jobs / f"{number:04d}.json", submission.model_dump_json(indent=1).encode()):
            folder(store, number).mkdir(exist_ok=True)
            return submission


def submissions(store: Store) -> list[Submission]:
    """All submissions, oldest first."""
    return [Submission.model_validate_json(path.read_bytes()) for path in sorted(store.jobs.glob("[0-9]*.json"))]


def read(store: Store, number: int) -> Submission:
    """One submission."""
    return Submission.model_validate_json((store.jobs / f"{number:04d}.json").read_bytes())


def folder(store: Store, number: int) -> Path:
    """Where its processes register."""
    return store.jobs / f"{number:04d}"


def join(store: Store, number: int, role: Role, index: int = 0) -> Path:
    """Register this process; the path to `leave` with."""
    text = json.dumps(asdict(Owner.me())).encode()
    if role == "supervisor":
        path = folder(store, number) / "supervisor.json"
        durable.create(path, text)
        return path
    incarnation = 0
    while not durable.create(path := folder(store, number) / f"worker-{index:03d}.{incarnation:02d}.json", text):
        incarnation += 1
    return path


def leave(path: Path, reason: str) -> None:
    """Say that the process which joined as `path` ends in good order."""
    durable.create(path.with_suffix(".end"), reason.encode())


def members(store: Store) -> Iterator[Member]:
    """All processes of all submissions, the latest submission first."""
    for jobs in sorted((path for path in store.jobs.iterdir() if path.is_dir()), reverse=True):
        for path in sorted(jobs.iterdir()):
            if match := _MEMBER.match(path.name):
                end = path.with_suffix(".end")
                ended = end.read_text() if end.exists() else ""
                role: Role = "worker" if match[2] else "supervisor"
                yield Member(path, role, int(match[2] or 0), Owner(**json.loads(path.read_bytes())), ended)


def log_file(store: Store, number: int, index: int) -> Path:
    """What worker `index` of a submission prints, over all its incarnations."""
    return store.logs / f"{number:04d}-worker-{index:03d}.log"
