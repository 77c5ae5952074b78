"""A shard with two living owners is made once, whatever the order of their steps.

The first owner is halted (SIGSTOP, as by a page fault, a lost network, a suspended machine) at
every disk operation that it makes. A second owner takes it for dead, makes everything and
publishes. Then the first wakes up and goes on as if nothing had happened.
"""

from __future__ import annotations

import os
import signal
from dataclasses import astuple

import pytest

from batchgen.dataset import finalize
from batchgen.run import RunDirectory, open_run
from tests.protocol import recount
from tests.protocol.disk_watch import Point
from tests.protocol.planned_run import PlannedRun
from tests.protocol.run_copy import RunCopy, go_on, wait_stopped
from tests.protocol.trial import KILLED, wrong_after_a_halt, wrong_when_finished

PARTIAL, DONE = ".batchgen/partial/000", ".batchgen/done/000"


@pytest.mark.slow
def test_an_owner_wrongly_declared_dead_at_any_operation_changes_nothing_when_it_wakes(
    planned_run: PlannedRun,
):
    undisturbed = planned_run.copy()
    assert undisturbed.work() == 0
    points = undisturbed.points()
    wrong = planned_run.wrong_trials(points, lambda point: wrong_after_a_halt(planned_run, point))
    assert wrong == {}


def test_the_first_link_wins_and_later_attempts_roll_the_winner_forward(planned_run: PlannedRun):
    """Two attempts stand before their commits.

    The first commits and dies at once. The second's link fails, and it publishes the first's files.
    """
    copy = planned_run.copy()
    first = _halted(copy, Point("fsync", f"{PARTIAL}/000000.0001.json", 0))
    second = _halted(copy, Point("fsync", f"{PARTIAL}/000000.0002.json", 0), misjudge=1.0)
    winner = (copy.root / PARTIAL / "000000.0001.tar").stat().st_ino
    _commit_and_die(copy, 1)
    os.kill(first, signal.SIGKILL)
    go_on(second)
    assert (copy.drivers.wait(first), copy.drivers.wait(second)) == (KILLED, 0), copy.output()
    assert (copy.root / "data/000000.tar").stat().st_ino == winner
    assert {row["attempt"] for row in recount.records(copy.root) if row["shard"] == 0} == {1}
    assert wrong_when_finished(planned_run, copy) == []


def test_a_commit_without_roll_forward_is_completed_although_a_later_attempt_is_half_written(
    planned_run: PlannedRun,
):
    """The dead winner is attempt 1, and attempt 2 died while it wrote.

    A third worker publishes attempt 1 and removes the files of both.
    """
    copy = planned_run.copy()
    first = _halted(copy, Point("fsync", f"{PARTIAL}/000000.0001.json", 0))
    point = Point("write", f"{PARTIAL}/000000.0002.parquet", 0)
    assert copy.work(point=astuple(point), misjudge=1.0) == KILLED
    winner = (copy.root / PARTIAL / "000000.0001.tar").stat().st_ino
    _commit_and_die(copy, 1)
    os.kill(first, signal.SIGKILL)
    assert copy.drivers.wait(first) == KILLED
    assert copy.work() == 0, copy.output()
    assert (copy.root / "data/000000.tar").stat().st_ino == winner
    assert wrong_when_finished(planned_run, copy) == []


def test_a_resume_that_looked_before_the_last_commit_does_not_undo_completion(
    planned_run: PlannedRun, monkeypatch: pytest.MonkeyPatch
):
    """Workers finish the run between its listing of commits and what it does about it."""
    copy = planned_run.copy()
    published = finalize.published_shards

    def finish_meanwhile(directory: RunDirectory) -> set[int]:
        if not directory.complete():
            assert copy.work() == 0, copy.output()
        return published(directory)

    monkeypatch.setattr(finalize, "published_shards", finish_meanwhile)
    finalize.finalize_run(open_run(copy.root))
    assert wrong_when_finished(planned_run, copy) == []


def _halted(copy: RunCopy, point: Point, **settings: float) -> int:
    """A worker that is halted at a point; its process id."""
    pid = copy.start(point=astuple(point), signal=int(signal.SIGSTOP), **settings)
    assert wait_stopped(pid), f"{point} was not reached\n{copy.output()}"
    return pid


def _commit_and_die(copy: RunCopy, attempt: int) -> None:
    """The link of the commit, as the halted worker would make it next."""
    os.link(copy.root / PARTIAL / f"000000.{attempt:04d}.json", copy.root / DONE / "000000.json")
