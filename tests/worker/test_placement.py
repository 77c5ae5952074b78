"""A replica's ranks find each other, or learn that nobody will come."""

from pathlib import Path

import pytest

from batchgen.errors import DeviceFault
from batchgen.run import submissions
from batchgen.run.directory import RunDirectory
from batchgen.worker import placement
from batchgen.worker.placement import Placement
from tests.support.specimens import planned


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    found = planned(tmp_path, ["a cat"]).directory
    submissions.record_submission(found, ["test"], workers=2, ranks=2)
    return found


def test_consecutive_tasks_are_the_ranks_of_a_worker() -> None:
    found = [Placement.of_task(1, task, ranks=2) for task in range(4)]
    assert [(one.index, one.rank) for one in found] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert {(one.number, one.ranks) for one in found} == {(1, 2)}


def test_every_rank_has_a_log_of_its_own(directory: RunDirectory) -> None:
    names = [Placement(1, 3, rank, 2).log(directory).name for rank in (0, 1)]
    assert names == ["0001-worker-003.log", "0001-worker-003.rank1.log"]


def test_a_rank_finds_the_address_of_its_own_rank_0(directory: RunDirectory) -> None:
    Placement(1, 0, 0, 2).rendezvous(directory).publish("here:1")
    Placement(1, 1, 0, 2).rendezvous(directory).publish("there:2")
    found = [Placement(1, index, 1, 2).rendezvous(directory).find() for index in (0, 1)]
    assert found == ["here:1", "there:2"]


def test_ranks_of_another_start_do_not_find_it(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    Placement(1, 0, 0, 2).rendezvous(directory).publish("old:1")
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "another")
    monkeypatch.setattr(placement, "FIND_S", 0.2)
    with pytest.raises(DeviceFault, match="rank 0 has not said within"):
        Placement(1, 0, 1, 2).rendezvous(directory).find()


def test_a_rank_0_that_leaves_early_lets_the_others_go(directory: RunDirectory) -> None:
    Placement(1, 0, 0, 2).dismiss(directory)
    with pytest.raises(SystemExit) as left:
        Placement(1, 0, 1, 2).rendezvous(directory).find()
    assert left.value.code == 0


def test_a_replica_that_has_met_is_not_dismissed(directory: RunDirectory) -> None:
    Placement(1, 0, 0, 2).rendezvous(directory).publish("here:1")
    Placement(1, 0, 0, 2).dismiss(directory)
    assert Placement(1, 0, 1, 2).rendezvous(directory).find() == "here:1"
