"""The trials of generations can fail: each broken rule is caught by one that the rule passes.

Every mutant makes a perfect generation when nobody dies, halts or meets another.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.protocol import mutants
from tests.protocol.chain import Chain, make_chain
from tests.protocol.disk_watch import Point
from tests.protocol.run_copy import Drivers
from tests.protocol.step_trial import (
    wrong_after,
    wrong_after_a_late_worker,
    wrong_after_another_command,
    wrong_at_end,
)
from tests.protocol.trial import Death

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chain(
    drivers: Drivers, threads: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory
) -> Chain:
    return make_chain(tmp_path_factory.mktemp("mutants"), drivers, threads)


# A trial's answer: what is wrong, of a chain and under a mutant.
Trial = Callable[[Chain, str], list[str]]


def _death(name: str, op: str, path: str, power: str) -> Trial:
    """The death comes after an operation on a path, the last such one before a worker works."""

    def trial(chain: Chain, mutant: str) -> list[str]:
        step = chain.steps[name]
        points = [one for one in step.points if (one.op, one.path) == (op, path)]
        planned = [one for one in points if one in step.planning]
        death = Death((planned or points)[-1], power=power)
        return wrong_after(chain, step, death, "again", mutant)

    return trial


# The step that shows a mutant undisturbed, the trial that catches it, and the message.
DETECTIONS: dict[str, tuple[str, Trial, str]] = {
    "list-unsynced": (
        "retry",
        _death("retry", "fsync", ".batchgen", "cut"),
        "the same command again ended with 1",
    ),
    "plan-unsynced": (
        "rest",
        _death("rest", "fsync", ".batchgen", "cut"),
        "the same command again ended with 1",
    ),
    "rows-unsynced": (
        "extend",
        _death("extend", "fsync", ".batchgen", "cut"),
        "the same command again ended with 1",
    ),
    "folders-unsynced": (
        "rest",
        _death("rest", "link", "metadata/000002.parquet", "cut"),
        "the same command again ended with 1",
    ),
    "plan-before-list": (
        "retry",
        _death("retry", "link", ".batchgen/plan-0002.json", "stays"),
        "the same command again ended with 1",
    ),
    "winner-unchecked": (
        "extend",
        lambda chain, mutant: wrong_after_another_command(chain, chain.steps["extend"], mutant),
        "the command to remake made nothing and was not refused",
    ),
    "completed-first": (
        "remake",
        _death("remake", "replace", "statistics.json", "stays"),
        "there are 5 generations, and not 4",
    ),
    "index-of-another": (
        "rest",
        lambda chain, mutant: wrong_after_a_late_worker(
            chain, Point("replace", "README.md", 0), mutant
        ),
        "index.json does not list the tars that are there",
    ),
}


def test_every_mutant_is_looked_for() -> None:
    assert DETECTIONS.keys() == mutants.OF_GENERATIONS.keys()


@pytest.mark.parametrize("mutant", DETECTIONS)
def test_a_broken_rule_of_generations_is_caught(chain: Chain, mutant: str) -> None:
    name, trial, sign = DETECTIONS[mutant]
    undisturbed = chain.copy(chain.steps[name].before)
    assert chain.steps[name].work(undisturbed, mutant=mutant) == 0, undisturbed.output()
    assert wrong_at_end(chain.steps[name], undisturbed) == [], "it is caught without any death"
    shutil.rmtree(undisturbed.root.parent)
    wrong = trial(chain, mutant)
    assert any(line.endswith(sign) for line in wrong), wrong
    assert trial(chain, "") == [], "the real protocol fails too"
