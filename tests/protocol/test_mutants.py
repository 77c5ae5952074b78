"""The protocol's tests can fail: each rule, broken, is caught by the trials that the protocol as it is passes.

Every mutant makes a perfect dataset when nobody dies: nothing but deaths (or two owners) tells it from the real thing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.protocol.arena import World
from tests.protocol.disk_watch import Point
from tests.protocol.mutants import MUTANTS
from tests.protocol.trial import (
    Death,
    deaths_at,
    wrong_after,
    wrong_after_a_halt,
    wrong_when_finished,
)

PARTIAL = ".batchgen/partial/000/000000.0001"
COMMIT, TAR, METADATA = (
    ".batchgen/done/000/000000.json",
    "data/000000.tar",
    "metadata/000000.parquet",
)


@dataclass(frozen=True)
class Trap:
    """Where a mutant is looked for, and by what it is known."""

    trials: Callable[[list[Point]], list[Death]]
    sign: str
    halt: bool = False  # the owner is halted there, not killed


def _at(*paths: str, power: str = "stays") -> Callable[[list[Point]], list[Death]]:
    return lambda points: deaths_at([point for point in points if point.path in paths], power)


def _torn(points: list[Point]) -> list[Death]:
    return [
        death
        for death in deaths_at(points, "stays")
        if death.torn and death.point.path == f"{PARTIAL}.journal"
    ]


TRAPS = {
    "no-fsync": Trap(_at(COMMIT, TAR, power="cut"), "data/000000.tar is not the undisturbed run's"),
    "no-checksum": Trap(_torn, "the last worker ended with 1"),
    "metadata-first": Trap(
        _at(TAR, METADATA),
        "metadata/000000.parquet speaks of 6 good pictures, and the tar beside it holds 0",
    ),
    "no-journal": Trap(_at(f"{PARTIAL}.parquet"), "3 groups were begun again after 1 deaths"),
    "rename-for-link": Trap(
        _at(f"{PARTIAL}.parquet"), f"{COMMIT} was published and then changed", halt=True
    ),
    "commit-unsynced": Trap(_at(COMMIT), "commits and metadata differ"),
}


def test_every_mutant_has_a_trap():
    assert TRAPS.keys() == MUTANTS.keys()


@pytest.mark.parametrize("mutant", TRAPS)
def test_a_broken_rule_is_caught(world: World, mutant: str):
    trap = TRAPS[mutant]
    undisturbed = world.scene()
    assert undisturbed.work(mutant=mutant) == 0
    assert wrong_when_finished(world, undisturbed) == [], (
        "this mutant is caught without any death: it shows nothing about them"
    )
    # Where its rule is broken the mutant makes other operations, so the real protocol's points are listed with the real protocol.
    shutil.rmtree(undisturbed.root)
    real = world.scene()
    assert real.work() == 0
    for death in trap.trials(real.points()):
        wrong = _trial(world, trap, death, mutant)
        if any(line.startswith(trap.sign) for line in wrong):
            print(
                f"{mutant}: caught by {'a halt' if trap.halt else 'a death'} after {death}: {wrong[0]}"
            )
            assert _trial(world, trap, death, "") == [], "the unbroken protocol fails there, too"
            return
    pytest.fail(f"{mutant} was not caught")


def _trial(world: World, trap: Trap, death: Death, mutant: str) -> list[str]:
    return (
        wrong_after_a_halt(world, death.point, mutant)
        if trap.halt
        else wrong_after(world, [death], mutant)
    )
