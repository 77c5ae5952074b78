"""Several ranks make a group on the emulated card: every exchange keeps NCCL's rules.

`ranks.py` says which these are. Exchanges are real, so that what comes out can be compared.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cuda.program import run

pytestmark = pytest.mark.slow

STEPS = 5
RUNS: dict[str, dict[str, Any]] = {
    "4×1": {"ulysses": 4, "ring": 1, "policy": "replay, measuring"},
    "2×2": {"ulysses": 2, "ring": 2, "policy": "multistep"},
    "1×4": {"ulysses": 1, "ring": 4},
}
RAGGED = {"ulysses": 2, "ring": 2, "model": "klein base", "ragged": True, "steps": 2}
MUTANTS: dict[str, dict[str, Any]] = {
    "a buffer has gaps": {"ulysses": 4, "ring": 1},
    "a length is wrong": {"ulysses": 2, "ring": 2},
    "the ring is not waited for": {"ulysses": 1, "ring": 4},
}


@pytest.fixture(scope="module")
def results(guard: Path) -> dict[str, Any]:
    """What each replica did."""
    mutants = {name: {"mutant": name, "steps": 1} | its for name, its in MUTANTS.items()}
    runs = {name: {"steps": STEPS} | its for name, its in RUNS.items()}
    runs |= {"ragged": RAGGED} | mutants
    told: dict[str, Any] = run("drive", guard, json.dumps(runs))
    return told


@pytest.mark.parametrize("name", RUNS)
def test_ranks_paint_together_what_one_paints_alone(results: dict[str, Any], name: str) -> None:
    """In bf16, 8 significant bits: 71 dB for one rounding (test_emulated_card.py).

    Attention in parts rounds as often as attention does, and little more. Seen: 57 to 64 dB.
    """
    result = results[name]
    assert result["error"] == ""
    assert result["faults"] == {}
    assert result["ranks"] == 4
    assert result["alike"], "all ranks hold the same latents, bit for bit"
    assert result["psnr"] >= 50
    alone, *together = result["skipped"]
    assert all(its == alone for its in together)


@pytest.mark.parametrize("name", RUNS)
def test_no_exchange_makes_the_host_wait(results: dict[str, Any], name: str) -> None:
    """Each of the ranks decides where a rank alone would (test_waits.py), and nowhere else."""
    result = results[name]
    computed = sum("0" in letters for letters in zip(*result["skipped"][0], strict=True))
    decisions = {"4×1": STEPS - 1, "2×2": computed, "1×4": 0}
    assert sum(result["waits"].values()) == 4 * (decisions[name] + 1)


def test_rows_of_their_own_lengths_make_nobody_wait(results: dict[str, Any]) -> None:
    """But for what each rank asks before it encodes (test_waits.py). Random weights: 41 dB."""
    result = results["ragged"]
    assert result["error"] == ""
    assert result["faults"] == {}
    assert result["alike"]
    assert result["psnr"] >= 41
    waits = [count for place, count in result["waits"].items() if not place.endswith(" encode")]
    assert sum(waits) == result["ranks"] == 4


def test_the_layouts_exchange_as_they_say(results: dict[str, Any]) -> None:
    assert "rotate" not in results["4×1"]["calls"]
    assert {"rotate", "all_to_all"} <= results["2×2"]["calls"].keys()
    # Six blocks pass keys and values on three times; only the velocity is gathered.
    assert results["1×4"]["calls"] == {"rotate": 4 * 6 * 3 * STEPS, "all_to_all": 4 * STEPS}


def test_a_broken_rule_is_told(results: dict[str, Any]) -> None:
    assert "is not contiguous" in results["a buffer has gaps"]["error"]
    assert "and peers send" in results["a length is wrong"]["error"]
    faults = results["the ring is not waited for"]["faults"]
    assert any("may not have written yet" in fault for fault in faults)
