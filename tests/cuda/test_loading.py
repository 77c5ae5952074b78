"""Workers of a node load at once: what stays on the card takes next to nothing of the host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cuda.program import run
from tests.support.full_size import write_full_size

pytestmark = pytest.mark.slow


TYPES = ["BF16", "F16"]


@pytest.fixture(scope="module")
def shares(guard: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    """By number type: the most bytes the host held, as a share of the weights'."""
    folder = tmp_path_factory.mktemp("models")
    models = [write_full_size(folder / kind, shallow=True, number_type=kind) for kind in TYPES]
    held = run("load", guard, json.dumps({str(model): {} for model in models})).values()
    weights = [sum(its.stat().st_size for its in model.rglob("*.safetensors")) for model in models]
    return {kind: most / size for kind, most, size in zip(TYPES, held, weights, strict=True)}


@pytest.mark.parametrize("number_type", TYPES)
def test_the_host_holds_no_weights_that_stay_on_the_card(
    shares: dict[str, float], number_type: str
) -> None:
    """Also where they are converted, as those of Stable Diffusion 3.5's text encoders are.

    One linear of each of T5's layers passes through fp32 in F16: transformers keeps it so. Seen: 3%
    and 10%.
    """
    assert shares[number_type] < 1 / 5
