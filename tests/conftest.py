"""Fixtures for all tests. Nothing here asks the network."""

import gc
import os
import signal
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer.main
import typer.testing
from xdist.scheduler import LoadFileScheduling

from tests.support.fake_squeue import FakeSqueue
from tests.support.nvidia_driver import Driver, write_driver
from tests.support.rehearsal import Answer, ask, faulty, settings, write_prompts

os.environ["HF_HUB_OFFLINE"] = "1"  # before any import of datasets or huggingface_hub

# A shell starts what is to run in the background without it, and so would be what tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests ask hundreds of commands; what they are built from never changes.
typer.main.get_command = typer.testing._get_command = cache(typer.main.get_command)

_CLUSTER = "tests/cluster/"


class _Scheduler(LoadFileScheduling):
    """Gives each file's tests to one process, and those of all files of the cluster to one.

    There is one cluster, and its suite mostly waits: it starts first, and leaves the processor to
    the other processes.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return _CLUSTER if file.startswith(_CLUSTER) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Scheduler:
    """Called when tests run in several processes."""
    return _Scheduler(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The cluster's files first, then those with slow tests: quick ones fill what is left."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (not item.nodeid.startswith(_CLUSTER), item.path not in slow))


def pytest_collection_finish() -> None:
    """What was imported for the tests stays: collecting garbage need not look through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    """A complete run of 40 pictures in 5 shards, and what `submit` said.

    Two pictures of the first shard failed, and the whole second shard. The run's name and the
    columns of its manifest are such that a loader could take them for splits or disagree on types.
    """
    folder = tmp_path_factory.mktemp("shared")
    words = ["RAISE", "NAN", *[""] * 6, *["RAISE"] * 8]
    prompts = [f"a cat on mat {n} {word}".strip() for n, word in enumerate([*words, *[""] * 22])]
    file = write_prompts(
        folder / "prompts.parquet",
        prompts,
        id=[f"cat.{n}/../x" for n in range(38)],
        guidance=pa.array([*[None] * 4, *[3] * 34], pa.int64()),
        images=[1] * 37 + [3],
        width=[128] * 30 + [192] * 8,
        score=[None] + [n / 2 for n in range(37)],
        tags=[["a"] * (n % 3) for n in range(38)],
        weight=[float(n) for n in range(38)],
        rank=list(range(38)),
    )
    run = folder / "test-train-dev"
    with faulty():
        words = settings(
            run__workers=2, engine__batch_size=4, shards__pictures=8, output__license="cc0-1.0"
        )
        return run, ask("submit", file, "--rehearse", "--out", run, *words)


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has no nvidia-smi, and shows no card."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("batchgen.planning.hardware._DEVICE_FILES", Path("/nowhere"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """Gives this machine an NVIDIA driver, cards, and a PyTorch that can use them."""
    folder = tmp_path / "driver"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("batchgen.planning.hardware._pytorch", lambda: "2.13.0+cu130")
    return lambda *cards: write_driver(folder, cards)


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSqueue:
    """Stands in the place of SLURM's."""
    return FakeSqueue(tmp_path, monkeypatch)
