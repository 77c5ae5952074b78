"""How often the host waits for the device, and where: a written budget.

While the host waits, nothing new is queued, and when it goes on the device stands idle until
something is. So the host waits

- once a group, at its end: for the verdict on its pictures;
- once a step at which a policy decides from what this step computes. A policy that measures does
  so at every step but the first; one that learns from computed steps, only at these;
- once a group where computed steps are measured for the record alone;
- at most twice a group before a language model encodes its prompts: transformers looks whether they
  are padded. Nothing is queued yet, so nothing is lost.

It never waits for what it sends to the device. All other numbers here are exact: less would be good
news, and then the budget is to be changed.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.cuda.program import run
from tests.support.tiny_families import FAMILIES

pytestmark = pytest.mark.slow

STEPS = 9
POLICIES = [
    "none",
    "multistep",
    "first_block",
    "teacache",
    "adacache",
    "schedule",
    "replay",
    "replay, measuring",
]
RUNS: dict[str, dict[str, Any]] = {
    **{policy: {"policy": policy, "scale": 2} for policy in POLICIES},
    "text": {"offload": "text"},
    "model": {"offload": "model"},
    "layers": {"offload": "layers", "policy": "first_block"},
    **{model: {"model": model, "policy": "multistep"} for model in ("sd3", *FAMILIES)},
    # Rows whose texts keep their lengths are told apart on the host.
    "ragged": {"model": "klein base", "policy": "multistep", "scale": 2, "ragged": True},
}
MUTANTS = {
    "the host waits at every step": RUNS["schedule"],
    "a decision waits twice": RUNS["first_block"],
    "attention waits": RUNS["ragged"],
}
VERDICT = "engine/torch_engine.py _denoise"
MEASURED = "engine/cache/probe.py measure"
LEARNED = "engine/cache/velocities.py _judge"
RECORDED = "engine/cache/velocities.py traces"


@pytest.fixture(scope="module")
def results(guard: Path) -> dict[str, Any]:
    """What each run of three pictures did."""
    mutants = {name: {"mutant": name} | its for name, its in MUTANTS.items()}
    usual = {"steps": STEPS, "pictures": 3, "again": False}
    runs = {name: usual | its for name, its in (RUNS | mutants).items()}
    told: dict[str, Any] = run("drive", guard, json.dumps(runs))
    return told


def waits(result: dict[str, Any]) -> dict[str, int]:
    """How often the host waited for a group: by file and function."""
    total: Counter[str] = Counter()
    for place, count in result["waits"].items():
        path, function = place.rpartition(" at ")[2].split(" ")
        total[f"{path.partition(':')[0]} {function}"] += count
    return dict(total)


def columns(result: dict[str, Any]) -> list[set[str]]:
    """What pictures did at each step: skipped it (1), computed it (0), or some this, some that."""
    return [set(letters) for letters in zip(*result["skipped"][1], strict=True)]


def budget(name: str, result: dict[str, Any]) -> dict[str, int]:
    """What a group of a run may cost."""
    policy = RUNS[name].get("policy", "none")
    computed = sum("0" in letters for letters in columns(result))
    allowed = {
        "none": {},
        "multistep": {LEARNED: computed},
        "adacache": {LEARNED: computed - 1},
        "first_block": {MEASURED: STEPS - 1},
        "teacache": {MEASURED: STEPS - 1},
        "replay, measuring": {MEASURED: STEPS - 1},
        "schedule": {RECORDED: 1},
        "replay": {RECORDED: 1},
    }
    encoding = {
        place: count
        for place, count in waits(result).items()
        if RUNS[name].get("model") in FAMILIES and place.endswith(" encode") and count <= 2
    }
    return {VERDICT: 1} | encoding | allowed[policy]


@pytest.mark.parametrize("name", RUNS)
def test_the_host_waits_as_often_as_its_budget_says(results: dict[str, Any], name: str) -> None:
    result = results[name]
    assert result["error"] == ""
    assert result["faults"] == {}
    assert waits(result) == budget(name, result)


@pytest.mark.parametrize("name", POLICIES[1:])
def test_pictures_skip_the_same_steps_as_on_the_cpu(results: dict[str, Any], name: str) -> None:
    on_the_cpu, on_the_card = results[name]["skipped"]
    assert on_the_card == on_the_cpu
    assert results[name]["psnr"] >= 50  # see test_emulated_card.py


@pytest.mark.parametrize("name", [name for name in POLICIES[1:] if name != "schedule"])
def test_some_pictures_skip_a_step_that_others_compute(results: dict[str, Any], name: str) -> None:
    """Else the budget would not have been tried where it is hardest to keep."""
    assert {"0", "1"} in columns(results[name])


def test_a_wait_more_at_every_step_is_counted_at_its_place(results: dict[str, Any]) -> None:
    result = results["the host waits at every step"]
    computed = sum("0" in letters for letters in columns(result))
    more = {"engine/forward_pass.py _velocity": computed}
    assert waits(result) == budget("schedule", result) | more


def test_a_second_wait_at_the_same_place_is_counted(results: dict[str, Any]) -> None:
    result = results["a decision waits twice"]
    assert waits(result) == budget("first_block", result) | {MEASURED: 2 * (STEPS - 1)}


def test_a_wait_in_attention_is_counted(results: dict[str, Any]) -> None:
    """Once a block, of which the small model has six."""
    result = results["attention waits"]
    computed = sum("0" in letters for letters in columns(result))
    more = {"engine/attention/opaque.py _attend": 6 * computed}
    assert waits(result) == budget("ragged", result) | more
