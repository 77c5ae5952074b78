"""Replicas end because of their pictures, until every picture is made or recorded as failed."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from batchgen import durable
from batchgen.engine.interface import Denoised, Verdict
from batchgen.errors import DeviceFault, OutOfMemory
from batchgen.manifest import Picture
from batchgen.run.owner import Owner
from batchgen.run.run import Run
from batchgen.shard.claims import Claims
from batchgen.worker.limits import Limits
from batchgen.worker.pipeline import Origin, Pipeline
from batchgen.worker.renderer import Renderer
from batchgen.worker.signals import Signals
from batchgen.worker.worker import Worker
from tests.support.rehearsal import records
from tests.support.specimens import StubEngine, planned


class Replica(StubEngine):
    """A replica of several ranks: what is raised in a step is reported, and ends the process."""

    pipeline: Pipeline

    def denoise(self, group: Sequence[Picture]) -> Denoised:
        try:
            return super().denoise(group)
        except (OutOfMemory, ValueError) as error:
            cause = "out of memory" if isinstance(error, OutOfMemory) else "exception"
            keys = tuple(picture.key for picture in group)
            self.pipeline.in_flight.judge(Verdict(cause, keys, f"rank 1: {error}"))
            raise DeviceFault("the replica has failed") from None


def lives(run: Run, monkeypatch: pytest.MonkeyPatch, fits: int = 1000) -> list[list[list[int]]]:
    """What each replica was given to make, one after another, until the run is complete."""
    monkeypatch.setattr(Owner, "life", lambda *_: "dead")
    # Hundreds of lives, and no power cut.
    monkeypatch.setattr(durable, "sync", lambda _file: None)
    monkeypatch.setattr(durable, "sync_folder", lambda _folder: None)
    given = []
    while not run.directory.complete():
        assert len(given) < 100
        engine = Replica(fits)
        engine.pipeline = Pipeline(Renderer(engine), run.job.output, Origin("here", 0))
        try:
            claims = Claims(run.directory, len(run.plan.shards), 0)
            Worker(run, engine.pipeline, claims, Signals(), Limits(run), "here").work()
        except DeviceFault:
            pass
        finally:
            engine.pipeline.close()
        given.append(engine.denoised)
    return given


def outcomes(run: Run) -> list[tuple[int, str, str, int]]:
    rows = records(run.directory.root)
    assert [row["index"] for row in rows] == list(range(run.plan.pictures))
    return [(row["index"], row["cause"], row["path"], row["group_size"]) for row in rows]


def test_a_group_that_does_not_fit_is_halved_in_the_next_life_and_so_are_all_of_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second begins with a shard that nobody has begun; the third goes back to the others."""
    run = planned(tmp_path, ["a cat"] * 24, "engine.batch_size=4", "shards.pictures=8")
    given = lives(run, monkeypatch, fits=1)
    assert given == [[[0, 1, 2, 3]], [[8, 9]], [[key] for key in [*range(16, 24), *range(16)]]]
    assert outcomes(run) == [(key, "", "oom_split", 1) for key in range(24)]


def test_a_picture_that_does_not_fit_alone_costs_a_life_and_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = planned(tmp_path, ["a cat"] * 3, "engine.batch_size=2")
    given = lives(run, monkeypatch, fits=0)
    assert given == [[[0, 1]], [[0]], [[1]], [[2]], []]
    assert [(cause, size) for _, cause, _, size in outcomes(run)] == [("out of memory", 1)] * 3
    assert {row["error"] for row in records(run.directory.root)} == {"rank 1: 1 do not fit"}


def test_a_picture_that_raises_costs_two_lives_and_one_record_with_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = ["a cat", "a cat", "RAISE", "a cat", "a cat", "a cat"]
    run = planned(tmp_path, prompts, "engine.batch_size=4", "shards.pictures=6")
    assert lives(run, monkeypatch) == [[[0, 1, 2, 3]], [[0], [1], [2]], [[3], [4, 5]]]
    retried = [(key, "exception" if key == 2 else "", "retry", 1) for key in range(4)]
    assert outcomes(run) == [*retried, (4, "", "normal", 2), (5, "", "normal", 2)]
    assert records(run.directory.root)[2]["error"] == "rank 1: no"


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("fits", [1, 3, 1000])
@pytest.mark.parametrize("bad", [(), (0,), (3, 4), (9,), (0, 1, 2, 7)])
def test_whatever_fails_every_picture_ends_once_and_lives_are_bounded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
    fits: int,
    bad: tuple[int, ...],
) -> None:
    prompts = ["RAISE" if key in bad else "a cat" for key in range(10)]
    run = planned(tmp_path, prompts, f"engine.batch_size={batch_size}", "shards.pictures=10")
    given = lives(run, monkeypatch, fits)
    assert [key for key, cause, _, _ in outcomes(run) if cause] == list(bad)
    halvings, tries = (batch_size - 1).bit_length(), 2 * len(bad)
    assert len(given) <= 1 + halvings + tries
