"""The protocol's tests can fail: each broken rule is caught by trials that the protocol passes.

Every mutant makes a perfect dataset when nobody dies. Only deaths or two owners show the
difference.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.protocol import mutants
from tests.protocol.disk_watch import Point
from tests.protocol.planned_run import PlannedRun
from tests.protocol.trial import (
    Death,
    deaths_at,
    wrong_after,
    wrong_after_a_halt,
    wrong_when_finished,
)

pytestmark = pytest.mark.slow
PARTIAL = ".batchgen/partial/000/000000.0001"
COMMIT = ".batchgen/done/000/000000.json"
TAR, METADATA = "data/000000.tar", "metadata/000000.parquet"


@dataclass(frozen=True)
class Detection:
    """Where a mutant is looked for, and the message by which it is known."""

    trials: Callable[[list[Point]], list[Death]]
    sign: str
    # The owner is halted there, not killed.
    halt: bool = False


def _at(*paths: str, power: str = "stays") -> Callable[[list[Point]], list[Death]]:
    return lambda points: deaths_at([point for point in points if point.path in paths], power)


def _torn(points: list[Point]) -> list[Death]:
    journal = [point for point in points if point.path == f"{PARTIAL}.journal"]
    return [death for death in deaths_at(journal, "stays") if death.torn]


DETECTIONS = {
    "no-fsync": Detection(_at(COMMIT, TAR, power="cut"), f"{TAR} is not the undisturbed run's"),
    "no-checksum": Detection(_torn, "the last worker ended with 1"),
    "metadata-first": Detection(
        _at(TAR, METADATA), f"{METADATA} speaks of 6 good pictures, and the tar beside it holds 0"
    ),
    "no-journal": Detection(_at(f"{PARTIAL}.parquet"), "3 groups were begun again after 1 deaths"),
    "rename-for-link": Detection(
        _at(f"{PARTIAL}.parquet"), f"{COMMIT} was published and then changed", halt=True
    ),
    "commit-unsynced": Detection(_at(COMMIT), "commits and metadata differ"),
}


def test_every_mutant_is_looked_for():
    assert DETECTIONS.keys() == mutants.MUTANTS.keys()


def test_a_mutant_that_would_change_nothing_is_refused():
    with pytest.raises(KeyError):
        mutants.replace(mutants.commit, "no_such_function", lambda: None)
    with pytest.raises(AssertionError, match="nothing calls __repr__"):
        mutants.replace(mutants.journal.Entry, "__repr__", lambda _: "")


@pytest.mark.parametrize("mutant", DETECTIONS)
def test_a_broken_rule_is_caught(planned_run: PlannedRun, mutant: str):
    detection = DETECTIONS[mutant]
    undisturbed = planned_run.copy()
    assert undisturbed.work(mutant=mutant) == 0
    assert wrong_when_finished(planned_run, undisturbed) == [], "it is caught without any death"
    shutil.rmtree(undisturbed.root)
    # A mutant makes other operations, so the points are those of the protocol itself.
    real = planned_run.copy()
    assert real.work() == 0
    for death in detection.trials(real.points()):
        wrong = _trial(planned_run, detection, death, mutant)
        if any(line.startswith(detection.sign) for line in wrong):
            event = "a halt" if detection.halt else "a death"
            print(f"{mutant}: caught by {event} after {death}: {wrong[0]}")
            assert _trial(planned_run, detection, death, "") == [], "the real protocol fails too"
            return
    pytest.fail(f"{mutant} was not caught")


def _trial(planned_run: PlannedRun, detection: Detection, death: Death, mutant: str) -> list[str]:
    if detection.halt:
        return wrong_after_a_halt(planned_run, death.point, mutant)
    return wrong_after(planned_run, [death], mutant)
