"""A shard with two living owners: exactly once all the same, whatever the order of their steps.

The first owner is halted (SIGSTOP: a page fault, a lost network, a suspended machine) at every disk operation it makes. A second takes
it for dead, makes everything, publishes; then the first wakes up and goes on as if nothing had happened.
"""

from __future__ import annotations

import os
import signal

import pytest

from batchgen.dataset import finalize
from batchgen.dataset.finalize import finalize_run
from batchgen.run.directory import RunDirectory
from batchgen.run.run import open_run
from tests.protocol import recount
from tests.protocol.arena import World
from tests.protocol.disk_watch import Point
from tests.protocol.scene import Scene, go_on, wait_stopped
from tests.protocol.trial import KILLED, wrong_after_a_halt, wrong_when_finished

PARTIAL, DONE = ".batchgen/partial/000", ".batchgen/done/000"


@pytest.mark.slow
def test_an_owner_wrongly_declared_dead_at_any_operation_changes_nothing_when_it_wakes(
    world: World,
):
    undisturbed = world.scene()
    assert undisturbed.work() == 0
    assert (
        world.wrong_trials(undisturbed.points(), lambda point: wrong_after_a_halt(world, point))
        == {}
    )


def test_the_first_link_wins_and_later_attempts_roll_the_winner_forward(world: World):
    """Two attempts stand before their commits. The first commits and dies at once; the second's link fails: it publishes the first's."""
    scene = world.scene()
    first = _halted(scene, Point("fsync", f"{PARTIAL}/000000.0001.json", 0))
    second = _halted(scene, Point("fsync", f"{PARTIAL}/000000.0002.json", 0), lie=1.0)
    winner = (scene.root / PARTIAL / "000000.0001.tar").stat().st_ino
    _commit_and_die(scene, 1)
    os.kill(first, signal.SIGKILL)
    go_on(second)
    assert (scene.drivers.wait(first), scene.drivers.wait(second)) == (KILLED, 0), scene.output()
    assert (scene.root / "data/000000.tar").stat().st_ino == winner
    assert {row["attempt"] for row in recount.records(scene.root) if row["shard"] == 0} == {1}
    assert wrong_when_finished(world, scene) == []


def test_a_commit_without_roll_forward_is_completed_although_a_later_attempt_is_half_written(
    world: World,
):
    """The dead winner is attempt 1; attempt 2 died while it wrote; a third worker publishes attempt 1 and removes both."""
    scene = world.scene()
    first = _halted(scene, Point("fsync", f"{PARTIAL}/000000.0001.json", 0))
    point = Point("write", f"{PARTIAL}/000000.0002.parquet", 0)
    assert scene.work(point=(point.op, point.path, point.ordinal), lie=1.0) == KILLED
    winner = (scene.root / PARTIAL / "000000.0001.tar").stat().st_ino
    _commit_and_die(scene, 1)
    os.kill(first, signal.SIGKILL)
    assert scene.drivers.wait(first) == KILLED
    assert scene.work() == 0, scene.output()
    assert (scene.root / "data/000000.tar").stat().st_ino == winner
    assert wrong_when_finished(world, scene) == []


def test_a_resume_that_looked_before_the_last_commit_does_not_undo_completion(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    """Between its listing of commits and what it does about it, workers finish the run."""
    scene = world.scene()
    published = finalize.published_shards

    def finish_meanwhile(directory: RunDirectory) -> set[int]:
        if not directory.complete():
            assert scene.work() == 0, scene.output()
        return published(directory)

    monkeypatch.setattr(finalize, "published_shards", finish_meanwhile)
    finalize_run(open_run(scene.root))
    assert wrong_when_finished(world, scene) == []


def _halted(scene: Scene, point: Point, **settings: float) -> int:
    """A worker halted at a point."""
    pid = scene.start(
        point=(point.op, point.path, point.ordinal), signal=int(signal.SIGSTOP), **settings
    )
    assert wait_stopped(pid), f"{point} was not reached\n{scene.output()}"
    return pid


def _commit_and_die(scene: Scene, attempt: int) -> None:
    """The commit's one link, as the halted worker would make it next."""
    os.link(scene.root / PARTIAL / f"000000.{attempt:04d}.json", scene.root / DONE / "000000.json")
