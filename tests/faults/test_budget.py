"""A systematic fault stops the run after its budget: neither at once nor after every picture."""

from pathlib import Path

import pytest

from tests.support.rehearsal import Answer, ask, faulty, records, rehearse, status

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hopeless(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    """A run in which every picture fails."""
    run = tmp_path_factory.mktemp("hopeless") / "run"
    return run, rehearse(run, [f"a cat {n} RAISE" for n in range(100)], shards__pictures=50)


def test_all_failures_stop_the_run_within_a_group_of_the_budget(
    hopeless: tuple[Path, Answer],
) -> None:
    run, answer = hopeless
    assert answer.code == 4
    told = status(run)
    assert (told["state"], told["ok"]) == ("stopped", 0)
    # Groups of four, two in flight.
    assert 10 < told["in_progress"] + told["failed"] <= 10 + 2 * 4
    assert "failure budget: " in told["cause"]
    assert "the budget is 10" in told["cause"]


def test_status_says_the_same_by_its_exit_code_and_next_command(
    hopeless: tuple[Path, Answer],
) -> None:
    answer = ask("status", hopeless[0])
    assert answer.code == 4
    resume = f"batchgen resume {hopeless[0]} --set run.failure_budget"
    logs = f"batchgen logs {hopeless[0]} --failed"
    assert f"next: see {logs}; to go on all the same: {resume}" in answer.out


def test_the_reasons_can_be_read_before_any_shard_is_published(
    hopeless: tuple[Path, Answer],
) -> None:
    failed = ask("logs", hopeless[0], "--failed").out
    error = "RuntimeError: the picture does not want to be made"
    assert f"000000000 row 0: exception: {error}" in failed


def test_a_raised_budget_lets_the_run_end(hopeless: tuple[Path, Answer]) -> None:
    """All pictures are recorded as failed. That is no success, and no tar is promised."""
    run, _ = hopeless
    with faulty():
        resumed = ask("resume", run, "--set", "run.failure_budget=1")
    assert resumed.code == 4, resumed
    assert "failed: none of 100 pictures could be made" in resumed.out
    assert "0 ok, 100 failed, 0 pending" in resumed.out
    assert "contact sheet" not in resumed.out
    assert "*.tar" not in resumed.out
    assert len(records(run)) == 100
    assert list((run / "data").iterdir()) == []
    assert ask("verify", "--deep", run).code == 0
