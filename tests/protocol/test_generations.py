"""A generation is planned and made whole whatever dies, halts or is typed twice, each of its kinds.

The command that plans a generation dies at each of its disk operations, by SIGKILL and with the
power; the worker that makes it dies at operations of finalizing and claiming, which the kinds take
in turns (a shard in progress is that of any generation: test_kill_points.py). Then a person looks,
and goes on by the same command or by a plain `resume`.
"""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, product
from typing import get_args

import pytest

from tests.protocol.chain import BUCKET, Chain, Step, generations, looks, make_chain, published
from tests.protocol.disk_watch import Point
from tests.protocol.run_copy import Drivers
from tests.protocol.step_trial import (
    Trials,
    Way,
    die,
    finish,
    wrong_after,
    wrong_after_a_halt,
    wrong_after_a_late_worker,
    wrong_after_another_command,
    wrong_at_end,
    wrong_look,
)
from tests.protocol.trial import Death, deaths_at

pytestmark = pytest.mark.slow
STEPS = ("rest", "retry", "extend", "remake", "rest of a sample")
CHAIN = STEPS[:4]
# Every so many'th operation of a worker: the kinds of generation begin at different ones.
STRIDE = 14
WAYS: tuple[Way, ...] = get_args(Way)


@pytest.fixture(scope="module")
def chain(
    drivers: Drivers, threads: ThreadPoolExecutor, tmp_path_factory: pytest.TempPathFactory
) -> Chain:
    return make_chain(tmp_path_factory.mktemp("generations"), drivers, threads)


def making(step: Step) -> list[Point]:
    """The operations of the worker that makes a generation, outside of its shard's attempts."""
    worker = step.points[len(step.planning) :]
    return [point for point in worker if "/partial/" not in point.path]


def test_the_enumeration_knows_every_step_of_a_generation(chain: Chain) -> None:
    for number, name in enumerate(CHAIN, 1):
        step = chain.steps[name]
        named = [point.path for point in step.planning if point.op in ("link", "replace")]
        lists = {"extend": [f".batchgen/manifest-{number:04d}.parquet"], "rest": []}
        keys = [f".batchgen/keys-{number:04d}.parquet"]
        assert named == [*lists.get(name, keys), f".batchgen/plan-{number:04d}.json"]
        assert any(point.op == "mkdir" for point in step.planning) == (name in ("rest", "extend"))
        assert Point("replace", "index.json", 0) in making(step)


@pytest.mark.parametrize("name", STEPS)
def test_a_death_at_any_operation_of_a_command_costs_nothing(chain: Chain, name: str) -> None:
    step = chain.steps[name]
    deaths = deaths_at(step.planning, "stays")
    assert chain.wrong_trials(deaths, Trials(chain, step).wrong_after) == {}


def test_a_death_at_any_operation_of_making_a_generation_costs_nothing(chain: Chain) -> None:
    trials = []
    turns = cycle(product(("stays", "cut"), WAYS))
    for offset, name in enumerate(STEPS):
        for point in making(chain.steps[name])[3 * offset :: STRIDE]:
            power, way = next(turns)
            trials.append((name, Death(point, power=power), way))
    wrong = chain.wrong_trials(
        trials, lambda one: wrong_after(chain, chain.steps[one[0]], *one[1:])
    )
    assert wrong == {}


def test_a_run_goes_through_all_generations_though_each_dies_once(chain: Chain) -> None:
    def wrong_chain(number: int) -> list[str]:
        copy, wrong = chain.copy(chain.steps["rest"].before), list[str]()
        for at, name in enumerate(CHAIN):
            step = chain.steps[name]
            before = published(copy.root)
            points = [one for one in (*step.planning, *making(step)) if "replaced" not in one.path]
            point = points[(number * 17 + at * 29) % len(points)]
            power, way = ("stays", "cut", "zeros")[(number + at) % 3], WAYS[(number + at // 2) % 2]
            wrong += die(step, copy, Death(point, power=power))
            wrong += finish(step, copy, way) + wrong_at_end(step, copy, before)
        shutil.rmtree(copy.root.parent)
        return wrong

    assert chain.wrong_trials(range(2), wrong_chain) == {}


def test_of_two_who_give_a_command_at_once_one_is_told_or_both_make_it(chain: Chain) -> None:
    trials = [
        (name, point)
        for name in STEPS
        for point in chain.steps[name].planning
        if point.op in ("link", "replace") or (point.op, point.path) == ("fsync", ".batchgen/done")
    ]
    wrong = chain.wrong_trials(
        trials, lambda one: wrong_after_a_halt(chain, chain.steps[one[0]], one[1])
    )
    assert wrong == {}


@pytest.mark.parametrize("name", ["rest", "retry", "extend"])
def test_of_two_who_give_different_commands_the_slower_is_told(chain: Chain, name: str) -> None:
    """Otherwise the slower would take the other's pictures for its own and make none."""
    assert wrong_after_another_command(chain, chain.steps[name]) == []


@pytest.mark.parametrize("name", STEPS)
def test_the_same_command_again_begins_another_generation_only_to_remake(
    chain: Chain, name: str
) -> None:
    step = chain.steps[name]
    copy = chain.copy(step.before)
    for _ in range(2):
        assert step.work(copy, look=True) == 0, copy.output()
    if name == "remake":  # whoever does not like the second picture wants a third
        assert generations(copy.root) == generations(step.before) + 2
    else:
        assert wrong_at_end(step, copy) == []
    assert wrong_look(looks(copy)[-1], step.status | _shards_of_another(step, name)) == []


def _shards_of_another(step: Step, name: str) -> dict[str, int]:
    more = 1 if name == "remake" else 0
    return {key: step.status[key] + more for key in ("shards", "shards_done")}


def test_a_card_that_a_person_edited_outlives_a_power_cut(chain: Chain) -> None:
    """It is kept aside, in a folder that is on the disk before the new card takes its place."""
    step = chain.steps["retry"]
    copy = chain.copy(step.before)
    card = copy.root / "README.md"
    card.write_text(card.read_text() + "Mine.")
    assert die(step, copy, Death(Point("replace", "README.md", 0), power="cut")) == []
    kept = [path.read_text() for path in copy.root.glob(".batchgen/replaced/*/README.md")]
    assert any(text.endswith("Mine.") for text in kept)


@pytest.fixture(scope="module")
def trial_points(chain: Chain) -> list[Point]:
    """What a worker does when it has published the last shard of a trial."""
    copy = chain.copy(chain.planned)
    assert copy.work(bucket=BUCKET) == 0, copy.output()
    points = copy.points()
    return points[points.index(Point("replace", "statistics.json", 0)) :]


def test_a_worker_of_the_generation_before_that_wakes_late_spoils_nothing(
    chain: Chain, trial_points: list[Point]
) -> None:
    """It was halted while it finalized the trial. Meanwhile another has made the rest."""
    points = [one for one in trial_points if one.op == "replace"]
    assert chain.wrong_trials(points, lambda point: wrong_after_a_late_worker(chain, point)) == {}
