"""Planning's estimate of memory, against what tensors of true size take on the emulated card.

Models are those of tests/support/full_size.py, as wide as the published ones. All but one are
shallow: layers add weights and modulation vectors, which planning counts exactly, and a layer's
activations are gone when the next one begins.

Tried are all sizes and groups in bf16 and FP8 with everything on the device, the smallest and a
large one in int8, and every offload with one picture: activations follow from size, group and
precision, whatever has left the device, and weights do not follow from the group. VAEs that differ
decode all of them, and a share of what two ranks decode together.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cuda.program import run
from tests.support.full_size import MODELS, write_full_size

pytestmark = pytest.mark.slow

# Side in px and pictures.
TINY, SMALL, FOUR, MANY, LARGE, LARGEST = (
    [256, 1],
    [1024, 1],
    [1024, 4],
    [1024, 8],
    [2048, 4],
    [4096, 1],
)
GROUPS = {model: [SMALL, MANY, LARGE, LARGEST] for model in MODELS}
# Its positions end at 3072 px.
GROUPS["SD3.5-large"] = [SMALL, MANY, LARGE]
# Its blocks are klein's, wider.
GROUPS["FLUX.2-dev"] = [SMALL, LARGE]
# Its blocks are FLUX.1's.
GROUPS["Chroma1-HD"] = [SMALL, FOUR]
# Its widest product has the largest weight, which counts where there are few tokens.
INT8 = {model: [SMALL, LARGE] for model in GROUPS} | {"FLUX.2-dev": [TINY, SMALL, LARGE]}
# Models whose VAEs differ.
DECODED = ("FLUX.1-dev", "FLUX.2-klein-4B", "Qwen-Image")
# Side in px and ranks: a band each, and several.
SHARED = [[2048, 2], [4096, 2]]
RUNS: dict[str, dict[str, Any]] = {
    "whole": {"model": "FLUX.1-dev", "groups": [FOUR], "cache": {"policy": "first_block"}},
    **{
        model: {"model": model, "groups": groups}
        | ({"decode": True, "shared": SHARED} if model in DECODED else {})
        for model, groups in GROUPS.items()
    },
    **{
        f"{model} fp8": {"model": model, "groups": groups, "precision": {"linear": "fp8"}}
        for model, groups in GROUPS.items()
    },
    **{
        f"{model} int8": {"model": model, "groups": groups, "precision": {"linear": "int8"}}
        for model, groups in INT8.items()
    },
    **{
        f"{model} offload {offload}": {
            "model": model,
            "groups": [SMALL],
            "engine": {"offload": offload},
            # Blocks in 8 bits move too.
            "precision": {"linear": "fp8" if offload == "layers" else "auto"},
        }
        for model in GROUPS
        for offload in ("text", "model", "layers")
    },
}


@pytest.fixture(scope="module")
def weighed(guard: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each run took, and what was estimated."""
    folder = tmp_path_factory.mktemp("models")
    for model in GROUPS:
        write_full_size(folder / model, model, shallow=True)
    write_full_size(folder / "whole")
    places = {name: "whole" if name == "whole" else its["model"] for name, its in RUNS.items()}
    asked = [
        {key: value for key, value in its.items() if key != "model"}
        | {"folder": str(folder / places[name])}
        for name, its in RUNS.items()
    ]
    return dict(zip(RUNS, run("weigh", guard, json.dumps(asked)), strict=True))


@pytest.mark.parametrize("name", RUNS)
def test_an_estimate_is_at_most_a_quarter_too_large_and_a_tenth_too_small(
    weighed: dict[str, Any], name: str
) -> None:
    asked, found = RUNS[name], weighed[name]
    assert found["faults"] == {}
    taken, estimated = found["weights"]
    assert estimated == pytest.approx(taken, rel=0.01)
    offloads = "engine" in asked
    for group, peaks in zip(asked["groups"], found["groups"], strict=True):
        for what, (taken, estimated) in peaks.items():
            # What is away takes more while text is encoded; that is in what it takes in all.
            if what != "denoising" or not offloads:
                assert 0.9 <= estimated / taken <= 1.25, (group, what)
    for share, (taken, estimated) in zip(asked.get("shared", ()), found["shares"], strict=True):
        assert 0.9 <= estimated / taken <= 1.25, share
