"""A worker dies at every single disk operation it makes, and another finishes: nothing is lost, repeated or corrupted.

    SIGKILL      the page cache survives: whatever was written is there
    power cut    bytes and names that were not synced are gone, or read as zeros (power_cut.py)

Every trial ends with a power cut after the run has finished: what a finished run says is on the disk.
"""

from __future__ import annotations

import pytest

from tests.protocol import recount
from tests.protocol.arena import World
from tests.protocol.disk_watch import Point
from tests.protocol.trial import Death, deaths_at, die, wrong_after, wrong_when_finished

SHARD_0 = ".batchgen/partial/000/000000.0001"


@pytest.fixture(scope="module")
def points(world: World) -> list[Point]:
    """Every disk operation of an undisturbed worker."""
    scene = world.scene()
    assert scene.work() == 0
    return scene.points()


def test_the_enumeration_knows_every_step_of_the_protocol(points: list[Point]):
    """What is killed at below: if a step were not seen, it would not be tested."""
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
def test_a_kill_at_any_operation_costs_nothing(world: World, points: list[Point]):
    assert (
        world.wrong_trials(deaths_at(points, "stays"), lambda death: wrong_after(world, [death]))
        == {}
    )


@pytest.mark.slow
def test_a_power_cut_at_any_operation_costs_nothing(world: World, points: list[Point]):
    assert (
        world.wrong_trials(
            deaths_at(points, "cut", "zeros"), lambda death: wrong_after(world, [death])
        )
        == {}
    )


@pytest.mark.slow
def test_a_second_death_at_any_operation_of_the_resume_costs_nothing(world: World):
    """The first died in its shard's third group, which was half written: the second copies two groups and makes one."""
    first = Death(Point("write", f"{SHARD_0}.tar", 2), torn=True)
    second = [point for point in _second_workers(world, first) if "000000" in point.path]
    assert any(point.path.endswith("000000.0002.tar") for point in second), (
        "the resume did not copy"
    )
    assert (
        world.wrong_trials(
            deaths_at(second, "stays", "cut"), lambda death: wrong_after(world, [first, death])
        )
        == {}
    )


@pytest.mark.slow
def test_a_second_death_at_any_operation_of_the_roll_forward_costs_nothing(world: World):
    """The first died between its last commit and that shard's roll-forward: the second has only to publish and finalize."""
    first = Death(Point("link", ".batchgen/done/000/000002.json", 0))
    second = _second_workers(world, first)
    assert Point("link", "metadata/000002.parquet", 0) in second
    assert not any(
        point.op == "create" and ".batchgen/partial" in point.path for point in second
    ), "a committed shard was made again"
    assert (
        world.wrong_trials(
            deaths_at(second, "stays", "cut"), lambda death: wrong_after(world, [first, death])
        )
        == {}
    )


@pytest.mark.parametrize("shard", [0, 1, 2])
def test_an_attempt_that_dies_between_commit_and_roll_forward_is_completed_by_another(
    world: World, shard: int
):
    """And not made again: the files that get the published names are the dead attempt's."""
    scene = world.scene()
    commit = f".batchgen/done/000/{shard:06d}.json"
    assert die(scene, Death(Point("link", commit, 0))) == []
    assert not (scene.root / "metadata" / f"{shard:06d}.parquet").exists()
    inode = (scene.root / ".batchgen/partial/000" / f"{shard:06d}.0001.parquet").stat().st_ino
    assert scene.work() == 0, scene.output()
    assert (scene.root / "metadata" / f"{shard:06d}.parquet").stat().st_ino == inode
    assert wrong_when_finished(world, scene) == []
    assert recount.redone_groups(scene.begins(), 2) == 0


def _second_workers(world: World, first: Death) -> list[Point]:
    """The operations of the worker that comes after a death."""
    scene = world.scene()
    assert die(scene, first) == []
    before = len(scene.points())
    assert scene.work() == 0, scene.output()
    return scene.points()[before:]
