"""A worker waits before it gives a picture up because of deaths."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from batchgen.run.owner import Owner
from batchgen.run.run import Run
from batchgen.shard.claims import Claim
from batchgen.shard.partial_shard import PartialShard
from batchgen.worker import limits, worker
from tests.support.rehearsal import records
from tests.support.specimens import failure, planned, worked

ALONE = (3, 4)  # attempts that were making the third picture by itself


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Four attempts were taken for dead: two while they made the last two of four pictures.

    The other two were making the third picture alone. The first two pictures have records.
    """
    run = planned(tmp_path, ["a cat"] * 4)
    for attempt in range(1, 5):
        run.directory.claim(0, attempt).write_text(
            json.dumps({"owner": asdict(Owner.me()), "at": 0.0})
        )
        partial = PartialShard(run.directory, 0, attempt, range(1, attempt))
        if attempt == 1:
            partial.begin(0, 2)
            partial.end(b"", [failure(0), failure(1)])
        partial.begin(2, 1 if attempt in ALONE else 2)
        partial.close()
    monkeypatch.setattr(Owner, "life", lambda *_: "dead")
    return run


def outcomes(run: Run) -> list[tuple[str, str]]:
    """Of the third picture and the fourth."""
    return [(row["cause"], row["path"]) for row in records(run.directory.root)[2:]]


def test_a_picture_that_killed_two_workers_alone_is_given_up_after_the_time_it_takes(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(worker.time, "sleep", waits.append)
    worked(run)
    assert outcomes(run) == [("killed its worker", "solo"), ("", "solo")]
    # Text, denoising and decoding took a quarter of a second each, by the records.
    assert waits == [limits.SAFETY * 3 * 0.25]


def test_a_picture_whose_owners_live_after_all_is_made(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile they see that they have a successor, and release their claims."""

    def release(_seconds: float) -> None:
        for attempt in ALONE:
            Claim(run.directory, 0, attempt).release()

    monkeypatch.setattr(worker.time, "sleep", release)
    worked(run)
    assert outcomes(run) == [("", "solo"), ("", "solo")]
