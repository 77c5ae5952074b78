"""Real processes that stand for devices, one thread each; they do what they are told, all at once, and answer.

The ranks of a `RankProcesses` share groups and exchanges, those of a `ReplicaProcesses` are a replica as workers make it up.
"""

import ctypes
import functools
import json
import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist

from batchgen.engine import follow_engine, open_engine
from batchgen.engine.interface import Rendezvous, Verdict, Workload
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.mesh import Mesh
from batchgen.engine.replica import control
from batchgen.model.checkpoint import resolve
from batchgen.settings.job import Job
from batchgen.worker.signals import Signals

ANSWER_S = 120.0  # longest a task may take here
_context = multiprocessing.get_context(
    "forkserver"
)  # slow imports happen once; each process is a copy of one that has them
_context.set_forkserver_preload(  # not this folder's modules: the fork server of Python 3.11 does not find them, and says nothing
    [
        "batchgen.engine.replica.replica",
        "batchgen.engine.families.flux",
        "torch._functorch.aot_autograd",
        "torch._inductor.compile_fx",
    ]
)

Task = Callable[..., Any]
"""Called with the process's ranks first."""


class RankProcesses:
    """`count` processes. They form replicas when told to."""

    def __init__(self, count: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._meetings = 0
        self.mesh = Mesh()
        self.processes, self._pipes = [], []
        for _ in range(count):
            ours, theirs = _context.Pipe()
            process = _context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self._pipes.append(ours)

    def connect(self, layout: Mesh, timeout_s: float = 60.0) -> None:
        """Consecutive processes become replicas of this layout, each with a store of its own."""
        self._meetings += 1
        self.mesh = layout
        for number in range(len(self._pipes)):
            replica, rank = divmod(number, layout.degree)
            path = Path(self._folder.name) / f"{self._meetings}-{replica}"
            self.ask(number, _connect, str(path), rank, layout, timeout_s)
        self.answers()

    def close(self) -> None:
        """All replicas part in good order."""
        self.run(Ranks.close)

    def run(self, task: Task, *words: Any) -> list[Any]:
        """Every process's answer to one task."""
        for number in range(len(self._pipes)):
            self.ask(number, task, *words)
        return self.answers()

    def run_replicas(self, task: Task, *words: Any) -> list[list[Any]]:
        """The answers of each replica's ranks."""
        answers, degree = self.run(task, *words), self.mesh.degree
        return [answers[first : first + degree] for first in range(0, len(answers), degree)]

    def ask(self, number: int, task: Task, *words: Any) -> None:
        self._pipes[number].send((task, words))

    def answers(self) -> list[Any]:
        """Of all; what the first one raised is raised."""
        answers = [
            self._receive(number) for number in range(len(self._pipes))
        ]  # all are received, whatever they are
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def answer(self, number: int) -> Any:
        """What the task returned; what it raised is raised."""
        if isinstance(answer := self._receive(number), Exception):
            raise answer
        return answer

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


def _serve(pipe: Connection) -> None:
    torch.set_num_threads(1)
    ranks = Ranks()
    while True:
        task, words = pipe.recv()
        try:
            answer = task(ranks, *words)
        except Exception as error:  # noqa: BLE001 - the caller raises it
            answer = error
        if isinstance(answer, Ranks):
            ranks, answer = answer, None
        pipe.send(answer)


def _connect(_: Ranks, path: str, rank: int, layout: Mesh, timeout_s: float) -> Ranks:
    return Ranks.connect(
        dist.FileStore(path, layout.degree), rank, layout, torch.device("cpu"), timeout_s
    )


class ReplicaProcesses:
    """A replica's processes, from their birth to their end. The leader does what it is told with its engine; the others follow."""

    def __init__(
        self,
        folder: Path,
        job: Job,
        spoil: Mapping[int, Callable[[], None]] | None = None,
        patience: Mapping[str, float] | None = None,
        absent: tuple[int, ...] = (),
    ) -> None:
        """:param folder: of its own; here the leader says where it is.
        :param spoil: by rank, what is done to its code before it begins.
        :param patience: `bond.py`'s constants.
        :param absent: ranks that are not started.
        """
        folder.mkdir()
        (folder / "verdicts").touch()
        self.folder = folder
        self._pipe, theirs = _context.Pipe()
        self.processes = {}
        for rank in set(range(job.parallel.cp)) - set(absent):
            words = (rank, folder, job, (spoil or {}).get(rank), dict(patience or {}), theirs)
            self.processes[rank] = _context.Process(target=_live, args=words, daemon=True)
            self.processes[rank].start()
        theirs.close()

    def ask(self, task: Callable[..., Any], *words: Any) -> None:
        """:param task: called with the leader's engine first."""
        self._pipe.send((task, words))

    def answer(self) -> Any:
        """What the task returned; what it raised is raised. EOFError: the leader ended without a word."""
        assert self._pipe.poll(ANSWER_S), "the leader does not answer"
        if isinstance(answer := self._pipe.recv(), Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Have the leader close its engine, and end."""
        self._pipe.send(None)

    def verdicts(self) -> list[Verdict]:
        """What the leader reported."""
        path = self.folder / "verdicts"
        return [
            Verdict(cause, tuple(pictures), why)
            for cause, pictures, why in map(json.loads, path.read_text().splitlines())
        ]

    def ends(self, within_s: float = 60.0) -> list[int]:
        """The processes' exit statuses, when all have ended."""
        end = time.monotonic() + within_s
        for rank, process in self.processes.items():
            process.join(max(end - time.monotonic(), 0.0))
            assert process.exitcode is not None, f"rank {rank} lives"
        return [process.exitcode for process in self.processes.values()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.kill()
            process.join()


def _live(
    rank: int,
    folder: Path,
    job: Job,
    spoil: Callable[[], None] | None,
    patience: dict[str, float],
    pipe: Connection,
) -> None:
    """A process's life. It ends as Python does, which copies of a fork server do not: exit functions, then all objects."""
    status = 0
    try:
        _work(rank, folder, job, spoil, patience, pipe)
    except SystemExit as end:
        status = end.code
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        status = 1
    ctypes.pythonapi.Py_Exit(status)


def _work(
    rank: int,
    folder: Path,
    job: Job,
    spoil: Callable[[], None] | None,
    patience: dict[str, float],
    pipe: Connection,
) -> None:
    torch.set_num_threads(1)
    for name, value in patience.items():
        assert hasattr(control, name)
        setattr(control, name, value)
    if spoil:
        spoil()
    address = folder / "address"
    publish, report = (
        functools.partial(_publish, address),
        functools.partial(_note, folder / "verdicts"),
    )
    seat = Rendezvous(
        rank,
        job.parallel.cp,
        publish,
        lambda: address.read_text() if address.exists() else "",
        report,
    )
    work = Workload(sizes=((128, 128),), batch=2, negative=False)
    if rank:
        pipe.close()
        follow_engine(job, resolve(job.model), work, seat)
        return
    Signals().install()
    try:
        engine = open_engine(job, resolve(job.model), work, seat)
        while order := pipe.recv():
            task, words = order
            pipe.send(task(engine, *words))
    except Exception as error:
        pipe.send(error)
        raise
    engine.close()


def _note(path: Path, verdict: Verdict) -> None:
    with path.open("a") as file:
        file.write(json.dumps([verdict.cause, verdict.pictures, verdict.why]) + "\n")


def _publish(address: Path, what: str) -> None:
    address.with_suffix(".new").write_text(what)
    address.with_suffix(".new").rename(address)
