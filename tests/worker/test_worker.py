"""A worker waits before it gives a picture up because of deaths."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest

from batchgen.engine import Denoised
from batchgen.manifest import Picture
from batchgen.run.owner import Owner
from batchgen.run.run import Run
from batchgen.shard.claims import Claim
from batchgen.shard.partial_shard import PartialShard
from batchgen.worker import limits, worker
from batchgen.worker.watchdog import Watchdog
from tests.support.rehearsal import records
from tests.support.specimens import StubEngine, failure, planned, worked

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


def test_a_group_that_hangs_is_named_with_the_limit_and_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second group of a shard of two: the first is written by then."""
    run = planned(tmp_path, ["a cat"] * 4, "run.group_timeout_s=7")
    said: list[tuple[float, Callable[[], str]]] = []
    monkeypatch.setattr(Watchdog, "watch", lambda _, limit_s, why: said.append((limit_s, why)))

    class Hanging(StubEngine):
        def denoise(self, group: Sequence[Picture]) -> Denoised:
            if group[0].key == 2:
                time.sleep(0.2)  # the writing thread ends the group before
                seen.append(said[-1][1]())
            return super().denoise(group)

    seen: list[str] = []
    worked(run, Hanging())
    resume = f"batchgen resume {run.directory.root} --set run.group_timeout_s=SECONDS"
    (told,) = seen
    assert told == (
        "pictures 000000002…000000003 of shard 000000: longer in flight than run.group_timeout_s "
        f"= 7, so the worker was ended. If they need more time: {resume}"
    )
    assert {limit_s for limit_s, _ in said} == {7.0}
