"""A process knows its place, and a replica's ranks find each other or learn that nobody will come."""

from pathlib import Path

import pytest
from specimens import planned

from batchgen import seat, submissions
from batchgen.errors import DeviceFault
from batchgen.seat import Place
from batchgen.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    found = planned(tmp_path, ["a cat"]).store
    submissions.record(found, ["test"], workers=2, ranks=2)
    return found


def test_consecutive_tasks_are_the_ranks_of_a_worker() -> None:
    assert [Place.of_task(1, task, 2) for task in range(4)] == [Place(1, 0, 0, 2), Place(1, 0, 1, 2), Place(1, 1, 0, 2), Place(1, 1, 1, 2)]


def test_every_rank_has_a_log_of_its_own(store: Store) -> None:
    assert [Place(1, 3, rank, 2).log(store).name for rank in (0, 1)] == ["0001-worker-003.log", "0001-worker-003.rank1.log"]


def test_a_rank_finds_the_address_of_its_own_rank_0(store: Store) -> None:
    Place(1, 0, 0, 2).seat(store).publish("here:1")
    Place(1, 1, 0, 2).seat(store).publish("there:2")
    assert [Place(1, index, 1, 2).seat(store).find() for index in (0, 1)] == ["here:1", "there:2"]


def test_another_incarnation_has_another_meeting_place(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    Place(1, 0, 0, 2).seat(store).publish("old:1")
    monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", "another")
    monkeypatch.setattr(seat, "FIND_S", 0.2)
    with pytest.raises(DeviceFault, match="rank 0 has not said within"):
        Place(1, 0, 1, 2).seat(store).find()


def test_a_rank_0_that_leaves_early_lets_the_others_go(store: Store) -> None:
    Place(1, 0, 0, 2).dismiss(store)
    with pytest.raises(SystemExit) as left:
        Place(1, 0, 1, 2).seat(store).find()
    assert left.value.code == 0


def test_a_replica_that_has_met_is_not_dismissed(store: Store) -> None:
    Place(1, 0, 0, 2).seat(store).publish("here:1")
    Place(1, 0, 0, 2).dismiss(store)
    assert Place(1, 0, 1, 2).seat(store).find() == "here:1"
