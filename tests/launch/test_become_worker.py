"""What the installation lacks is told by status, and no restart is spent on it."""

import sys
from pathlib import Path

import pytest

from batchgen.launch.become_worker import become_worker
from batchgen.run import submissions
from batchgen.view.status import read_status
from batchgen.worker.placement import Placement
from tests.support.specimens import planned

TOLD = "CannotStart: the worker cannot be imported: ModuleNotFoundError: import of "


@pytest.fixture(autouse=True)
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The module of the worker cannot be imported."""
    monkeypatch.setitem(sys.modules, "batchgen.worker.main", None)


def test_an_import_error_reaches_status(tmp_path: Path) -> None:
    run = planned(tmp_path)
    submissions.record_submission(run.directory, [], 1)
    become_worker(run.directory.root, Placement(1, 0))
    (member,) = submissions.members_of(run.directory, 1)
    assert member.departure, "it left, so that nobody starts it again"
    assert str(member.departure).startswith(TOLD)
    status = read_status(run.directory)
    assert (status.state, f"a worker left: {TOLD}" in status.cause) == ("stalled", True)


def test_another_rank_ends_and_rank_0_says_why(tmp_path: Path) -> None:
    run = planned(tmp_path)
    submissions.record_submission(run.directory, [], 1, ranks=2)
    with pytest.raises(SystemExit, match="the worker cannot be imported"):
        become_worker(run.directory.root, Placement(1, 0, rank=1, ranks=2))
    assert list(submissions.members_of(run.directory, 1)) == []
