"""A worker dies at any disk operation; another loses, repeats and corrupts nothing.

    SIGKILL      the page cache survives: whatever was written is there
    power cut    bytes and names that were not synced are gone, or read as zeros (power_cut.py)

Every trial ends with a power cut after the run has finished: what a finished run says is on the
disk.
"""

from __future__ import annotations

import pytest

from tests.protocol import recount
from tests.protocol.disk_watch import Point
from tests.protocol.planned_run import PlannedRun
from tests.protocol.trial import Death, deaths_at, die, wrong_after, wrong_when_finished

SHARD_0 = ".batchgen/partial/000/000000.0001"


@pytest.fixture(scope="module")
def points(planned_run: PlannedRun) -> list[Point]:
    """Every disk operation of an undisturbed worker."""
    copy = planned_run.copy()
    assert copy.work() == 0
    return copy.points()


def test_the_enumeration_knows_every_step_of_the_protocol(points: list[Point]):
    """Workers are killed at these operations: a step that is not seen is not tested."""
    seen = {(point.op, point.path) for point in points}
    synced = [("fsync", f"{SHARD_0}.{kind}") for kind in ("tar", "parquet", "json")]
    commit = [("link", ".batchgen/done/000/000000.json"), ("fsync", ".batchgen/done/000")]
    forward = [
        ("link", "data/000000.tar"),
        ("fsync", "data"),
        ("link", "metadata/000000.parquet"),
        ("fsync", "metadata"),
    ]
    others = [
        ("link", ".batchgen/claims/000/000000.0001"),
        ("unlink", f"{SHARD_0}.tar"),
        ("replace", "index.json"),
        ("fsync", "."),
    ]
    assert seen.issuperset([*synced, *commit, *forward, *others])
    assert len(points) == len(set(points)) > 150


@pytest.mark.slow
def test_a_kill_at_any_operation_costs_nothing(planned_run: PlannedRun, points: list[Point]):
    assert wrong_trials(planned_run, deaths_at(points, "stays")) == {}


@pytest.mark.slow
def test_a_power_cut_at_any_operation_costs_nothing(planned_run: PlannedRun, points: list[Point]):
    assert wrong_trials(planned_run, deaths_at(points, "cut", "zeros")) == {}


@pytest.mark.slow
def test_a_second_death_at_any_operation_of_the_resume_costs_nothing(planned_run: PlannedRun):
    """The first died in its shard's third group, half written: the second copies two groups."""
    first = Death(Point("write", f"{SHARD_0}.tar", 2), torn=True)
    second = [point for point in _second_workers(planned_run, first) if "000000" in point.path]
    assert any(point.path.endswith("000000.0002.tar") for point in second), "it did not copy"
    assert wrong_trials(planned_run, deaths_at(second, "stays", "cut"), first) == {}


@pytest.mark.slow
def test_a_second_death_at_any_operation_of_the_roll_forward_costs_nothing(planned_run: PlannedRun):
    """The first died between its last commit and the roll-forward: the second only publishes."""
    first = Death(Point("link", ".batchgen/done/000/000002.json", 0))
    second = _second_workers(planned_run, first)
    assert Point("link", "metadata/000002.parquet", 0) in second
    created = [point.path for point in second if point.op == "create"]
    assert not any(".batchgen/partial" in path for path in created), "it was made again"
    assert wrong_trials(planned_run, deaths_at(second, "stays", "cut"), first) == {}


@pytest.mark.slow
@pytest.mark.parametrize("shard", [0, 1, 2])
def test_an_attempt_that_dies_between_commit_and_roll_forward_is_completed_by_another(
    planned_run: PlannedRun, shard: int
):
    """It is not made again: the published files are the dead attempt's."""
    copy = planned_run.copy()
    commit = f".batchgen/done/000/{shard:06d}.json"
    assert die(copy, Death(Point("link", commit, 0))) == []
    assert not (copy.root / "metadata" / f"{shard:06d}.parquet").exists()
    inode = (copy.root / ".batchgen/partial/000" / f"{shard:06d}.0001.parquet").stat().st_ino
    assert copy.work() == 0, copy.output()
    assert (copy.root / "metadata" / f"{shard:06d}.parquet").stat().st_ino == inode
    assert wrong_when_finished(planned_run, copy) == []
    assert recount.redone_groups(copy.begins(), 2) == 0


def wrong_trials(
    planned_run: PlannedRun, deaths: list[Death], *before: Death
) -> dict[str, list[str]]:
    """The deaths after which something is wrong, and what; each comes after those `before`."""
    return planned_run.wrong_trials(
        deaths, lambda death: wrong_after(planned_run, [*before, death])
    )


def _second_workers(planned_run: PlannedRun, first: Death) -> list[Point]:
    """The operations of the worker that comes after a death."""
    copy = planned_run.copy()
    assert die(copy, first) == []
    before = len(copy.points())
    assert copy.work() == 0, copy.output()
    return copy.points()[before:]
