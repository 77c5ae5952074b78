"""Real processes in place of devices, with one thread each.

`RankProcesses` are connected ranks, each of which runs the tasks that a test gives it.
`ReplicaProcesses` are one replica as workers start it: rank 0 runs the tasks, the others follow it.
"""

import ctypes
import functools
import json
import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist

from batchgen.engine import follow_engine, open_engine
from batchgen.engine.interface import Rendezvous, Verdict, Workload
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.mesh import Mesh
from batchgen.engine.replica import control, rendezvous, store
from batchgen.model.checkpoint import resolve
from batchgen.settings.job import Job
from batchgen.worker.signals import Signals

# Seconds that a task may take at most.
ANSWER_S = 120.0
# The fork server imports slow modules once, and every process is a copy of it. Modules of the tests
# cannot be preloaded: Python 3.11's fork server does not find them, and does not report it.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "batchgen.engine.replica.replica",
        "batchgen.engine.families.flux",
        "torch._functorch.aot_autograd",
        "torch._inductor.compile_fx",
    ]
)

# A task is called with the process's ranks first.
Task = Callable[..., Any]


class RankProcesses:
    """`count` processes, which `connect` makes into replicas."""

    def __init__(self, count: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._connections = 0
        self.mesh = Mesh()
        self.processes, self._pipes = [], []
        for _ in range(count):
            ours, theirs = _context.Pipe()
            process = _context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self._pipes.append(ours)

    def connect(self, mesh: Mesh, timeout_s: float = 60.0) -> None:
        """Make consecutive processes into replicas of this mesh, each with a store of its own."""
        self._connections += 1
        self.mesh = mesh
        for number in range(len(self._pipes)):
            replica, rank = divmod(number, mesh.degree)
            path = Path(self._folder.name) / f"{self._connections}-{replica}"
            self.ask(number, _connect, str(path), rank, mesh, timeout_s)
        self.answers()

    def close(self) -> None:
        """Have all ranks leave their process groups."""
        self.run(Ranks.close)

    def run(self, task: Task, *arguments: Any) -> list[Any]:
        """Every process's answer to one task."""
        for number in range(len(self._pipes)):
            self.ask(number, task, *arguments)
        return self.answers()

    def run_replicas(self, task: Task, *arguments: Any) -> list[list[Any]]:
        """The answers of each replica's ranks."""
        answers, degree = self.run(task, *arguments), self.mesh.degree
        return [answers[first : first + degree] for first in range(0, len(answers), degree)]

    def ask(self, number: int, task: Task, *arguments: Any) -> None:
        """Have one process begin a task."""
        self._pipes[number].send((task, arguments))

    def answers(self) -> list[Any]:
        """The answers of all processes. If tasks raised, the first one's exception is raised."""
        answers = [self._receive(number) for number in range(len(self._pipes))]
        return [_returned(answer) for answer in answers]

    def answer(self, number: int) -> Any:
        """What one process's task returned; what it raised is raised."""
        return _returned(self._receive(number))

    def _receive(self, number: int) -> Any:
        assert self._pipes[number].poll(ANSWER_S), f"process {number} does not answer"
        return self._pipes[number].recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()
        self._folder.cleanup()


def _returned(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer


def _serve(pipe: Connection) -> None:
    """Run tasks until the process is killed."""
    torch.set_num_threads(1)
    ranks = Ranks()
    while True:
        task, arguments = pipe.recv()
        try:
            answer = task(ranks, *arguments)
        except Exception as error:  # noqa: BLE001 - the caller raises it
            answer = error
        if isinstance(answer, Ranks):
            ranks, answer = answer, None
        pipe.send(answer)


def _connect(_: Ranks, path: str, rank: int, mesh: Mesh, timeout_s: float) -> Ranks:
    store = dist.FileStore(path, mesh.degree)
    return Ranks.connect(store, rank, mesh, torch.device("cpu"), timeout_s)


@dataclass(frozen=True)
class _Replica:
    """What the processes of a replica are started with."""

    folder: Path
    job: Job
    # By rank, what is done to the process before it builds its engine.
    spoil: Mapping[int, Callable[[], None]]
    # Values for constants of `control.py`, `rendezvous.py` and `store.py`.
    patience: Mapping[str, float]
    # The leader's end of the pipe.
    pipe: Connection


class ReplicaProcesses:
    """A replica's processes, from start to end. Rank 0 runs tasks with its engine."""

    def __init__(
        self,
        folder: Path,
        job: Job,
        spoil: Mapping[int, Callable[[], None]] | None = None,
        patience: Mapping[str, float] | None = None,
        absent: tuple[int, ...] = (),
    ) -> None:
        """:param folder: a new folder, in which rank 0 publishes its address.
        :param spoil: by rank, what is done to the process before it builds its engine.
        :param patience: values for constants of `control.py`, `rendezvous.py` and `store.py`.
        :param absent: ranks that are not started.
        """
        folder.mkdir()
        (folder / "verdicts").touch()
        self.folder = folder
        self._pipe, theirs = _context.Pipe()
        replica = _Replica(folder, job, spoil or {}, patience or {}, theirs)
        self.processes = {}
        for rank in set(range(job.parallel.degree)) - set(absent):
            process = _context.Process(target=_run_rank, args=(rank, replica), daemon=True)
            process.start()
            self.processes[rank] = process
        theirs.close()

    def ask(self, task: Callable[..., Any], *arguments: Any) -> None:
        """Have the leader begin a task.

        :param task: called with the leader's engine first.
        """
        self._pipe.send((task, arguments))

    def answer(self) -> Any:
        """What the task returned; what it raised is raised.

        :raises EOFError: the leader ended without an answer.
        """
        assert self._pipe.poll(ANSWER_S), "the leader does not answer"
        return _returned(self._pipe.recv())

    def close(self) -> None:
        """Have the leader close its engine, and end."""
        self._pipe.send(None)

    def verdicts(self) -> list[Verdict]:
        """What the leader reported."""
        lines = (self.folder / "verdicts").read_text().splitlines()
        return [
            Verdict(cause, tuple(pictures), why) for cause, pictures, why in map(json.loads, lines)
        ]

    def ends(self, within_s: float = 60.0) -> list[int]:
        """The exit statuses of all processes, when all have ended."""
        end = time.monotonic() + within_s
        for rank, process in self.processes.items():
            process.join(max(end - time.monotonic(), 0.0))
            assert process.exitcode is not None, f"rank {rank} has not ended"
        return [process.exitcode for process in self.processes.values()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
            process.join()


def _run_rank(rank: int, replica: _Replica) -> None:
    """Run one process of the replica.

    The process ends as Python does, with exit functions and then all objects deleted. Copies of a
    fork server do not do so by themselves.
    """
    status = 0
    try:
        _work(rank, replica)
    except SystemExit as end:
        status = end.code
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        status = 1
    ctypes.pythonapi.Py_Exit(status)


def _work(rank: int, replica: _Replica) -> None:
    torch.set_num_threads(1)
    for name, value in replica.patience.items():
        (module,) = (module for module in (control, rendezvous, store) if hasattr(module, name))
        setattr(module, name, value)
    if spoil := replica.spoil.get(rank):
        spoil()
    job, pipe, meeting = replica.job, replica.pipe, _find_ranks(rank, replica)
    work = Workload(sizes=((128, 128),), batch=2, negative=False)
    if rank:
        pipe.close()
        follow_engine(job, resolve(job.model), work, meeting)
        return
    Signals().install()
    try:
        engine = open_engine(job, resolve(job.model), work, meeting)
        while message := pipe.recv():
            task, arguments = message
            pipe.send(task(engine, *arguments))
    except Exception as error:
        pipe.send(error)
        raise
    engine.close()


def _find_ranks(rank: int, replica: _Replica) -> Rendezvous:
    """Ranks that find each other, and report verdicts, through files of the replica's folder."""
    address = replica.folder / "address"
    return Rendezvous(
        rank,
        replica.job.parallel.degree,
        functools.partial(_publish, address),
        lambda: address.read_text() if address.exists() else "",
        functools.partial(_append, replica.folder / "verdicts"),
        one_machine=True,
    )


def _append(path: Path, verdict: Verdict) -> None:
    with path.open("a") as file:
        file.write(json.dumps([verdict.cause, verdict.pictures, verdict.why]) + "\n")


def _publish(address: Path, text: str) -> None:
    address.with_suffix(".new").write_text(text)
    address.with_suffix(".new").rename(address)
