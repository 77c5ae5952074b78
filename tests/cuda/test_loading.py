"""Workers of a node load at once: what stays on the card takes next to nothing of the host."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cuda.program import run
from tests.support.full_size import write_full_size

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number_type", ["BF16", "F16"])
def test_the_host_holds_no_weights_that_stay_on_the_card(
    guard: Path, tmp_path: Path, number_type: str
) -> None:
    """Also where they are converted, as those of Stable Diffusion 3.5's text encoders are.

    One linear of each of T5's layers passes through fp32 in F16: transformers keeps it so. Seen: 3%
    and 10%.
    """
    model = write_full_size(tmp_path / "flux-dev", shallow=True, number_type=number_type)
    (held,) = run("load", guard, json.dumps({str(model): {}})).values()
    weights = sum(file.stat().st_size for file in model.rglob("*.safetensors"))
    assert held < weights / 5
