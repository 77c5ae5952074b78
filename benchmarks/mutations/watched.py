"""A process that meets inputs, watched by another one: it may hang, die or ask for all memory."""

from __future__ import annotations

import multiprocessing
import os
import resource
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random

from benchmarks.mutations import KINDS
from benchmarks.mutations.trial import Outcome, Trial, run

# A process is ready within this time: it may have two runs to make, or a model to load.
START_S = 300.0
HANG_S = 20.0
# Of a process: one that asks for more meets a MemoryError.
MOST_BYTES = 16 * 2**30
# Nothing here tests the disk, and what is synced in memory takes no time.
MEMORY = Path("/dev/shm")

# From a seed and an input's number to the input and its folder, which is the current one then.
Make = Callable[[int, int], tuple[Trial, Path]]


@dataclass(frozen=True)
class Result:
    """What became of one input."""

    kind: str
    number: int
    outcome: Outcome
    # What was mutated, and how.
    about: str
    # The message of an error, or what is wrong.
    why: str


def try_inputs(kind: str, seed: int, numbers: range) -> Iterator[Result]:
    """Meet the inputs of these numbers. A process that hangs or dies is replaced by another."""
    left = list(numbers)
    while left:
        with _process(kind, seed, left) as connection:
            yield from _listen(connection, kind, left)


def _listen(connection: Connection, kind: str, left: list[int]) -> Iterator[Result]:
    """The results of a process, until it has met what is left, hangs or dies."""
    about, patience = "before the first input", START_S
    while left:
        try:
            told = connection.recv() if connection.poll(patience) else None
        except EOFError:
            yield Result(kind, left.pop(0), Outcome.TRACEBACK, about, "the process died")
            return
        if told is None:
            yield Result(kind, left.pop(0), Outcome.HANG, about, f"no answer in {patience:.0f} s")
            return
        if isinstance(told, Exception):  # a mistake in this package
            raise told
        if isinstance(told, Result):
            left.remove(told.number)
            yield told
        else:
            about, patience = told, HANG_S


@contextmanager
def _process(kind: str, seed: int, numbers: list[int]) -> Iterator[Connection]:
    mine, theirs = multiprocessing.Pipe()
    folder = tempfile.mkdtemp(prefix="batchgen-mutated-", dir=MEMORY if MEMORY.is_dir() else None)
    process = multiprocessing.get_context("spawn").Process(
        target=_meet, args=(theirs, Path(folder), kind, seed, numbers)
    )
    process.start()
    theirs.close()
    try:
        yield mine
    finally:
        process.kill()
        process.join()
        shutil.rmtree(folder, ignore_errors=True)


def _meet(parent: Connection, folder: Path, kind: str, seed: int, numbers: list[int]) -> None:
    """Meet inputs: tell the parent what each one is, and then what became of it."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    try:
        with ExitStack() as stack:
            make = prepare(kind, folder, stack)
            for number in numbers:
                trial, where = make(seed, number)
                parent.send(trial.about)
                outcome, why = run(trial)
                os.chdir(folder)
                shutil.rmtree(where, ignore_errors=True)
                parent.send(Result(kind, number, outcome, trial.about, why))
    except Exception:
        parent.send(RuntimeError(traceback.format_exc()))
        raise


def prepare(kind: str, folder: Path, stack: ExitStack) -> Make:
    """Make this process ready for the inputs of a kind, until `stack` is closed.

    Nothing is on its PATH, it has no network and one core.
    """
    os.environ |= {"PATH": "/nowhere", "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    os.environ |= {"COLUMNS": "200", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    from benchmarks.mutations import command_line, loras, manifests, models, runs, settings
    from benchmarks.mutations.workers import working_here

    if kind == "run":
        runs.prepare(folder)
    elif kind in ("model", "LoRA"):
        models.prepare(folder)
    stack.enter_context(working_here())
    mutate: dict[str, Callable[[Random, Path], Trial]] = {
        "manifest": manifests.trial,
        "job": settings.job_trial,
        "site": settings.site_trial,
        "command line": command_line.trial,
        "model": lambda chance, where: models.trial(chance, where, folder),
        "LoRA": loras.trial,
        "run": lambda chance, where: runs.trial(chance, where, folder),
    }
    assert mutate.keys() == KINDS.keys()

    def make(seed: int, number: int) -> tuple[Trial, Path]:
        where = folder / f"input-{number}"
        where.mkdir()
        os.chdir(where)
        return mutate[kind](Random(f"{seed} {kind} {number}"), where), where

    return make
