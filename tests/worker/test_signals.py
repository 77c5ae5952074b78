"""Signals, `cancel`, a time limit: groups in flight are finished or dropped; none is lost."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.rehearsal import (
    alive,
    ask,
    faulty,
    owners,
    records,
    rehearse,
    status,
    wait_until,
)

pytestmark = pytest.mark.slow
PROMPTS = [f"a cat {n}" for n in range(32)]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A run of two workers with four groups each that take a second."""
    run, settings = tmp_path / "run", {"shards__pictures": 16, "pattern__delay_s": 1}
    assert rehearse(run, PROMPTS, "--detach", run__workers=2, **settings).code == 0
    wait_until(lambda: status(run)["in_progress"] >= 4 and status(run)["workers"] == 2)
    yield run
    for pid in (*owners(run, "supervisor"), *owners(run, "worker")):
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def finish(run: Path) -> None:
    """The rest is made, and nothing in the run looks like a death."""
    with faulty():
        assert ask("resume", run, "--set", "pattern.delay_s=0").code == 0
    assert {(record["outcome"], record["path"]) for record in records(run)} == {("ok", "normal")}
    assert ask("verify", "--deep", run).code == 0


@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGTERM])
def test_a_signalled_worker_leaves_in_order_and_is_not_replaced(
    number: signal.Signals, run: Path
) -> None:
    before = {pid for pid in owners(run, "worker") if alive(pid)}
    for pid in before:
        os.kill(pid, number)
    wait_until(lambda: not any(alive(pid) for pid in owners(run, "supervisor")))
    assert set(owners(run, "worker")) == before
    assert {path.read_text() for path in run.glob(".batchgen/jobs/0001/worker-*.end")} == {
        number.name
    }
    answer = ask("status", run)
    assert answer.code == 5
    assert answer.out.startswith("stalled: ")
    assert f"next: batchgen resume {run}" in answer.out
    finish(run)


def test_cancel_finishes_the_groups_in_flight(run: Path) -> None:
    answer = ask("cancel", run)
    assert answer.code == 0
    assert f"batchgen cancel {run} --now ends the workers at once" in answer.out
    assert ask("status", run, "--watch").code == 3
    told = status(run)
    assert (told["state"], told["cause"]) == ("stopped", "user: asked to stop")
    assert 4 <= told["in_progress"] < 32
    finish(run)


def test_cancel_now_ends_the_workers_at_once(run: Path) -> None:
    assert ask("cancel", run, "--now").code == 0
    assert ask("status", run, "--watch").code == 3
    wait_until(lambda: not any(alive(pid) for pid in owners(run, "worker")))
    finish(run)


def test_no_group_begins_that_cannot_finish_within_the_time_limit(tmp_path: Path) -> None:
    """Groups take three seconds, the limit is eight: the worker leaves before, and says why."""
    run, begun = tmp_path / "run", time.time()
    answer = rehearse(run, PROMPTS, pattern__delay_s=3, run__time_limit_s=8)
    assert answer.code == 3
    assert time.time() - begun < 8 + 5
    assert "stopped: time limit: the submission's run.time_limit_s is over" in answer.out
    told = status(run)
    assert told["in_progress"] + told["ok"] < 32
    assert {path.read_text() for path in run.glob(".batchgen/jobs/0001/worker-*.end")} == {
        "deadline"
    }
    more = ("--set", "pattern.delay_s=0", "--set", "run.time_limit_s=1000")
    with faulty():
        assert ask("resume", run, *more).code == 0
    assert {record["path"] for record in records(run)} == {"normal"}
