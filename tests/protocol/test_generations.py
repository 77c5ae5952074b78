"""A death at any disk operation of a further generation, from its plan on, costs nothing.

The first generation stays as it was, byte for byte, and every picture counts once.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import astuple, dataclass
from pathlib import Path

import pytest

from tests.protocol import power_cut, recount
from tests.protocol.disk_watch import Point
from tests.protocol.planned_run import PlannedRun
from tests.protocol.run_copy import Drivers, RunCopy
from tests.protocol.trial import Death, deaths_at


@dataclass(frozen=True)
class Complete:
    """A complete run in which pictures have failed."""

    planned: PlannedRun
    template: Path
    folder: Path
    drivers: Drivers
    # Identity and content of what is published.
    published: dict[str, tuple[int, str]]

    def copy(self, name: str) -> RunCopy:
        return RunCopy(self.template, self.folder / name, self.drivers)


@pytest.fixture(scope="module")
def complete(
    planned_run: PlannedRun, drivers: Drivers, tmp_path_factory: pytest.TempPathFactory
) -> Complete:
    first = planned_run.copy()
    assert first.work() == 0, first.output()
    contents = {name: (0, sha256) for name, (_, sha256) in recount.published(first.root).items()}
    folder = tmp_path_factory.mktemp("generations")
    return Complete(planned_run, first.root, folder, drivers, contents)


@pytest.fixture(scope="module")
def points(complete: Complete) -> list[Point]:
    """Every disk operation of an undisturbed retry."""
    copy = complete.copy("undisturbed")
    assert copy.work(retry=True) == 0, copy.output()
    assert wrong_at_end(complete, copy) == []
    return copy.points()


def test_the_enumeration_knows_every_step_of_a_generation(points: list[Point]) -> None:
    seen = [(point.op, point.path.partition(".")[0] or point.path) for point in points]
    paths = [point.path for point in points if point.op in ("link", "replace")]
    assert seen
    plan = paths.index(".batchgen/plan-0001.json")
    (keys,) = [n for n, path in enumerate(paths) if path.startswith(".batchgen/keys-0001.")]
    done, index = (paths.index(".batchgen/done/000/000003.json"), paths.index("index.json"))
    assert keys < plan < done < index


@pytest.mark.slow
def test_a_kill_at_any_operation_of_a_generation_costs_nothing(
    complete: Complete, points: list[Point]
) -> None:
    # A shard in progress is that of any generation: test_kill_points.py.
    others = [point for point in points if "partial" not in point.path]
    deaths = enumerate(deaths_at(others, "stays", "cut"))
    wrong = complete.planned.wrong_trials(
        [_Trial(number, death) for number, death in deaths],
        lambda trial: wrong_after(complete, trial),
    )
    assert wrong == {}


@dataclass(frozen=True)
class _Trial:
    number: int
    death: Death

    def __str__(self) -> str:
        return str(self.death)


def wrong_after(complete: Complete, trial: _Trial) -> list[str]:
    """What is wrong after a death and another who was asked for the same."""
    copy, death = complete.copy(f"{trial.number:05d}"), trial.death
    code = copy.work(point=astuple(death.point), torn=death.torn, retry=True)
    wrong = [] if code == -9 else [f"a worker that should have died ended with {code}"]
    if death.power != "stays":
        power_cut.cut(copy.root, copy.events())
    wrong += changed(complete, copy)
    if code := copy.work(retry=True):
        wrong.append(f"the last worker ended with {code}")
    wrong += wrong_at_end(complete, copy)
    if wrong:
        wrong.append(copy.output())
    shutil.rmtree(copy.root.parent)
    return wrong


def changed(complete: Complete, copy: RunCopy) -> list[str]:
    """Files of the first generation that are not as they were."""
    now = {name: (0, sha256) for name, (_, sha256) in recount.published(copy.root).items()}
    return [f"{name} changed" for name, was in complete.published.items() if now.get(name) != was]


def wrong_at_end(complete: Complete, copy: RunCopy) -> list[str]:
    """What is wrong with a run whose three failures were made again, counted from its files."""
    wrong, prompts = changed(complete, copy), complete.planned.prompts
    last: dict[int, dict[str, object]] = {}
    for row in sorted(recount.records(copy.root), key=lambda row: int(row["generation"])):
        before = last.get(row["index"])
        if before and (before["outcome"], row["generation"]) != ("failed", 1):
            wrong.append(f"picture {row['index']} was made again without need")
        last[row["index"]] = row
    if sorted(last) != list(range(len(prompts))):
        wrong.append(f"there are records of {sorted(last)}")
    where = {
        key: f"data/{path.name}"
        for path in copy.root.glob("data/*.tar")
        for key in recount.samples(path)
    }
    if where != {key: row["tar"] for key, row in last.items()}:
        wrong.append(f"the samples are in {where}")
    if sorted(path.name for path in copy.root.glob(".batchgen/plan*")) != [
        "plan-0001.json",
        "plan.json",
    ]:
        wrong.append("there is not one further generation")
    index = json.loads((copy.root / "index.json").read_bytes())
    if (index.get("generation"), sum(one["nsamples"] for one in index["shardlist"])) != (1, 14):
        wrong.append("the index is not that of the last generation")
    left = [path.name for path in copy.root.glob(".batchgen/partial/*/*")]
    return wrong + ([f"{left} are left"] if left else [])
