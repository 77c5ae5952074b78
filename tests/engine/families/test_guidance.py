"""What planning believes a family reads of a picture's guidance is what the family reads."""

from itertools import product

import numpy as np
import pytest

from batchgen.engine.families.chroma import Chroma
from batchgen.engine.families.flux import Flux
from batchgen.engine.families.sd3 import StableDiffusion3
from batchgen.model import Guidance
from tests.support.specimens import picture

SCALES, NEGATIVES = (0.0, 0.5, 1.0, 4.0), ("", "grey")


@pytest.mark.parametrize(
    ("family", "contrasts"), [(Flux, False), (StableDiffusion3, True), (Chroma, True)]
)
def test_a_negative_prompt_is_read_exactly_where_there_is_classifier_free_guidance(
    family, contrasts
):
    model = Guidance(embedded=not contrasts, contrasts=contrasts)
    for guidance, true_cfg, negative in product(SCALES, SCALES, NEGATIVES):
        if contrasts and true_cfg > 1:
            continue  # refused
        one = picture(guidance=guidance, true_cfg=true_cfg, negative_prompt=negative)
        idle = model.idle(np.array([guidance]), np.array([true_cfg]), np.array([negative != ""]))
        contrasted = family.cfg_scale(None, one) > 1
        assert idle["negative_prompt"][0] == (negative != "" and not contrasted)
        scale, name = (guidance, "guidance") if contrasts else (true_cfg, "true_cfg")
        assert idle[name][0] == (scale not in (0, 1) and not contrasted)
