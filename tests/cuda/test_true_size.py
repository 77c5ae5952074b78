"""Planning's estimate of memory, against what tensors of true size take on the emulated card.

Models are as wide as the published ones. All but one are shallow: layers add weights and modulation
vectors, which planning counts exactly, and a layer's activations are gone when the next one begins.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cuda.program import run
from tests.support.full_size import write_full_size, write_full_size_qwen_image, write_full_size_sd3

pytestmark = pytest.mark.slow

# Side in px and pictures.
SMALL, MANY, LARGE, LARGEST = [1024, 1], [1024, 8], [2048, 4], [4096, 1]
# The positions of 3.5 large end at 3072 px.
GROUPS = {
    "flux": [SMALL, MANY, LARGE, LARGEST],
    "large": [SMALL, MANY, LARGE],
    "medium": [SMALL, MANY, LARGE, LARGEST],
}
FP8 = {"linear": "fp8"}
RUNS: list[dict[str, Any]] = [
    {"folder": "whole", "groups": [[1024, 4]], "cache": {"policy": "first_block"}},
    *({"folder": model, "groups": groups} for model, groups in GROUPS.items()),
    *({"folder": model, "groups": groups, "precision": FP8} for model, groups in GROUPS.items()),
    {"folder": "flux", "groups": [SMALL, LARGE, LARGEST], "decode": True},
    {"folder": "qwen", "groups": [SMALL, LARGE], "decode": True},
    {"folder": "qwen", "groups": [SMALL, MANY], "precision": FP8},
    *(
        {"folder": model, "groups": [SMALL], "engine": {"offload": offload}}
        for model in ("flux", "medium")
        for offload in ("text", "model", "layers")
    ),
    {"folder": "flux", "groups": [SMALL], "engine": {"offload": "layers"}, "precision": FP8},
    {"folder": "large", "groups": [SMALL], "engine": {"offload": "model"}, "precision": FP8},
]


def test_an_estimate_is_at_most_a_quarter_too_large_and_a_tenth_too_small(
    guard: Path, tmp_path: Path
) -> None:
    write_full_size(tmp_path / "whole")
    write_full_size(tmp_path / "flux", shallow=True)
    write_full_size_qwen_image(tmp_path / "qwen", shallow=True)
    for size in ("large", "medium"):
        write_full_size_sd3(tmp_path / size, size, shallow=True)
    runs = [its | {"folder": str(tmp_path / its["folder"])} for its in RUNS]
    for asked, weighed in zip(RUNS, run("weigh", guard, json.dumps(runs)), strict=True):
        assert weighed["faults"] == {}, asked
        taken, estimated = weighed["weights"]
        assert estimated == pytest.approx(taken, rel=0.01), asked
        offloads = "offload" in asked.get("engine", {})
        for group, peaks in zip(asked["groups"], weighed["groups"], strict=True):
            for what, (taken, estimated) in peaks.items():
                # What is away takes more while text is encoded; that is in what it takes in all.
                if what != "denoising" or not offloads:
                    assert 0.9 <= estimated / taken <= 1.25, (asked, group, what)
