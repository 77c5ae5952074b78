"""Which of a picture's guidance values change it, as its family reads them."""

import numpy as np
import pytest

from batchgen.model.guidance import Guidance

DEV = Guidance(embedded=True, contrasts=False)
SCHNELL = Guidance(embedded=False, contrasts=False)
SD3 = Guidance(embedded=False, contrasts=True)
ZIMAGE = Guidance(embedded=False, contrasts=True, unguided=0.0)


def idle(model: Guidance, guidance: float, true_cfg: float, *, negative: bool) -> set[str]:
    found = model.idle(np.array([guidance]), np.array([true_cfg]), np.array([negative]))
    return {name for name, mask in found.items() if mask[0]}


@pytest.mark.parametrize(
    ("model", "guidance", "true_cfg", "negative", "without_effect"),
    [
        (DEV, 3.5, 1.0, False, set()),
        (DEV, 0.5, 4.0, True, set()),
        (DEV, 3.5, 4.0, False, {"true_cfg"}),
        (DEV, 3.5, 1.0, True, {"negative_prompt"}),
        (DEV, 3.5, 0.0, True, {"negative_prompt"}),
        (DEV, 3.5, 0.5, True, {"true_cfg", "negative_prompt"}),
        (DEV, 3.5, 0.5, False, {"true_cfg"}),
        (SCHNELL, 3.5, 1.0, False, {"guidance"}),
        (SCHNELL, 1.0, 1.0, False, {"guidance"}),
        (SCHNELL, 0.0, 1.0, False, set()),
        (SCHNELL, 0.0, 4.0, True, set()),
        (SD3, 4.5, 1.0, True, set()),
        (SD3, 4.5, 1.0, False, set()),
        (SD3, 1.0, 1.0, True, {"negative_prompt"}),
        (SD3, 0.0, 0.0, False, set()),
        (SD3, 0.5, 0.5, True, {"guidance", "true_cfg", "negative_prompt"}),
        (ZIMAGE, 0.0, 1.0, False, set()),
        (ZIMAGE, 0.5, 1.0, True, set()),
        (ZIMAGE, 1.0, 1.0, True, set()),
        (ZIMAGE, 0.0, 1.0, True, {"negative_prompt"}),
        (ZIMAGE, 4.0, 4.0, False, {"true_cfg"}),
    ],
)
def test_what_asks_for_something_and_changes_nothing_is_known(
    model: Guidance, guidance: float, true_cfg: float, negative: bool, without_effect: set[str]
) -> None:
    assert idle(model, guidance, true_cfg, negative=negative) == without_effect


@pytest.mark.parametrize("model", [DEV, SCHNELL, SD3, ZIMAGE])
def test_the_values_that_stand_for_none_ask_for_nothing(model: Guidance) -> None:
    none = model.none
    assert not idle(model, none["guidance"], none["true_cfg"], negative=False)


def test_every_value_has_a_condition_in_words() -> None:
    for model in (DEV, SCHNELL, SD3, ZIMAGE):
        assert all(model.condition(name) for name in model.none)
    assert ZIMAGE.condition("guidance") == "it acts over 0"
    assert ZIMAGE.condition("negative_prompt") == "it acts where guidance is over 0"
