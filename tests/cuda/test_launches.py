"""What one compiled block may launch on an H100, at true size, in bf16 and FP8.

Counted in the code that Inductor writes, which nothing here runs: see launches.py. The code is
written in triton, which a build of PyTorch for CPUs comes without:

    pip install triton && pytest tests/cuda/test_launches.py

A budget is what torch 2.13 with triton 3.7 makes of the engine of today. Another version may need
fewer of Triton's kernels; products and attention follow from the model.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cuda.program import run
from tests.support.full_size import write_full_size

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None,
        reason="launches are counted in code that is written in triton: pip install triton",
    ),
]

# Of a block in bf16 and in FP8: Triton's kernels, those among them that only move or convert
# numbers, and tensors rounded to 8 bits, one for each input of a product.
DOUBLE, SINGLE = {"bf16": (13, 3, 0), "fp8": (13, 1, 8)}, {"bf16": (5, 0, 0), "fp8": (5, 0, 2)}
BUDGETS: dict[str, dict[str, dict[str, tuple[int, int, int]]]] = {
    "FLUX.1-dev": {"FluxTransformerBlock": DOUBLE, "ParallelBlock": SINGLE},
    "FLUX.2-klein-4B": {"Flux2TransformerBlock": DOUBLE, "Flux2SingleTransformerBlock": SINGLE},
    "Chroma1-HD": {"ChromaTransformerBlock": DOUBLE, "ParallelBlock": SINGLE},
    "SD3.5-large": {"JointTransformerBlock": DOUBLE},
    "Qwen-Image": {"QwenImageTransformerBlock": DOUBLE},
    "ERNIE-Image": {"ErnieImageBlock": {"bf16": (6, 0, 0), "fp8": (7, 0, 4)}},
    "Z-Image": {
        "ImageBlock": {"bf16": (5, 0, 0), "fp8": (6, 0, 4)},
        "JointBlock": {"bf16": (6, 0, 0), "fp8": (7, 0, 4)},
    },
}
# Matrix products, in either precision. All blocks attend once.
PRODUCTS = {
    block: 8 if its is DOUBLE else 2 if its is SINGLE else 4
    for blocks in BUDGETS.values()
    for block, its in blocks.items()
}
PRECISIONS = ("bf16", "fp8")
# Waste, the block that has it, in which precision, and of what it is too much.
MUTANTS = {
    "q, k, v and the MLP apart": ("FLUX.1-dev", "ParallelBlock", "fp8", {"products", "rounded"}),
    "an input rounded in two": (
        "FLUX.1-dev",
        "ParallelBlock",
        "fp8",
        {"triton", "copies", "products", "rounded"},
    ),
    "joined before rotated": ("FLUX.1-dev", "FluxTransformerBlock", "bf16", {"triton"}),
    "heads before tokens": ("FLUX.1-dev", "ParallelBlock", "bf16", {"triton", "copies"}),
    "gate and value apart": ("ERNIE-Image", "ErnieImageBlock", "fp8", {"products", "rounded"}),
    "eager mode's strides": ("Chroma1-HD", "ParallelBlock", "bf16", {"triton", "copies"}),
}


@pytest.fixture(scope="module")
def counted(guard: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the blocks of every model launch, and those of every mutant."""
    folder = tmp_path_factory.mktemp("models")
    for model in BUDGETS:
        write_full_size(folder / model, model, shallow=True)
    asked: dict[str, dict[str, Any]] = {
        f"{model} {linear}": {"folder": str(folder / model), "linear": linear}
        for model in BUDGETS
        for linear in PRECISIONS
    }
    for mutant, (model, _, linear, _) in MUTANTS.items():
        asked[mutant] = asked[f"{model} {linear}"] | {"mutant": mutant}
    asked["diffusers"] = asked["FLUX.1-dev fp8"] | {"peer": True}
    counted: dict[str, Any] = run("launches", guard, json.dumps(asked))
    return counted


def _exceeded(found: dict[str, int], model: str, block: str, linear: str) -> set[str]:
    """Of what there is more than a block may have."""
    triton, copies, rounded = BUDGETS[model][block][linear]
    budget = {"triton": triton, "copies": copies, "rounded": rounded, "attention": 1, "others": 0}
    budget["products"] = PRODUCTS[block]
    return {name for name, most in budget.items() if found[name] > most}


@pytest.mark.parametrize("linear", PRECISIONS)
@pytest.mark.parametrize("model", BUDGETS)
def test_a_block_launches_no_more_than_its_budget(
    counted: dict[str, Any], model: str, linear: str
) -> None:
    blocks = counted[f"{model} {linear}"]
    assert set(blocks) == set(BUDGETS[model])
    for block, found in blocks.items():
        assert _exceeded(found, model, block, linear) == set(), (block, found)
        # Something was counted, and an input is rounded once for each product that reads it.
        assert found["triton"] > 0
        assert (found["attention"], found["products"]) == (1, PRODUCTS[block])
        assert found["rounded"] == (PRODUCTS[block] if linear == "fp8" else 0)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_waste_exceeds_the_budget(counted: dict[str, Any], mutant: str) -> None:
    model, block, linear, too_much = MUTANTS[mutant]
    assert _exceeded(counted[mutant][block], model, block, linear) == too_much


def test_the_blocks_of_flux_launch_less_than_those_of_diffusers(counted: dict[str, Any]) -> None:
    """For linears of one input are one, and modulations are elsewhere."""
    names = ("triton", "products", "attention", "others")
    own, stock = (
        [sum(found[name] for name in names) for found in counted[whose].values()]
        for whose in ("FLUX.1-dev fp8", "diffusers")
    )
    double, single = (theirs - ours for ours, theirs in zip(own, stock, strict=True))
    # Four linears and two modulations in a double block; three and one in a single block.
    assert double >= 6, (own, stock)
    assert single >= 4, (own, stock)
