"""A complete run to push, and pushes that die."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batchgen.dataset.wids import run_index
from batchgen.run import RunDirectory
from batchgen.shard import read_done
from tests.support.rehearsal import Answer
from tests.support.s3_server import s3, s3_server

__all__ = ["s3", "s3_server"]

Die = Callable[[Path, str, int], int]


@pytest.fixture
def run(finished: tuple[Path, Answer], tmp_path: Path) -> Path:
    """A copy of a complete run of five shards, of which one has no tar."""
    return shutil.copytree(finished[0], tmp_path / "run")


def keep_shards(run: Path, shards: int) -> None:
    """Make a run of five shards one of its first shards only."""
    directory = RunDirectory.open(run)
    for shard in range(shards, 5):
        for path in (directory.data(shard), directory.metadata(shard), directory.done(shard)):
            path.unlink()
    done = [read_done(directory, shard) for shard in range(shards)]
    directory.index.write_bytes(run_index(directory, done, 0))


@pytest.fixture
def die() -> Iterator[Die]:
    """Push in another process, which dies at a step; its exit code."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.push_killer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as killer:

        def push(run: Path, url: str, step: int) -> int:
            killer.stdin.write(json.dumps([str(run), url, step]) + "\n")
            killer.stdin.flush()
            return int(killer.stdout.readline())

        yield push
        killer.stdin.close()
