"""A run in which pictures have failed, and the same after they were tried again."""

from pathlib import Path

import pytest

from batchgen.generations import retry_failed
from batchgen.run.run import Run
from tests.support.specimens import Mended, copied, planned, worked

# Shards of four pictures; the second has no good one.
PROMPTS = ["a cat", "NAN", "a dog", "RAISE", *["FLAT"] * 4, "a fox", "a hen"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("made")
    return worked(planned(folder, PROMPTS, score=[n / 2 for n in range(10)]))


@pytest.fixture(scope="module")
def remade(made: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same with its failures made again; four of six failed once more."""
    run = copied(made, tmp_path_factory.mktemp("remade"))
    return worked(retry_failed(run)[0], Mended("FLAT"))


@pytest.fixture
def retried(remade: Run, tmp_path: Path) -> Run:
    return copied(remade, tmp_path)
