"""Classifier-free guidance: exact for the contrasted pictures, and nothing for the others."""

import pytest
import torch

from batchgen.engine.denoise import Rows, contrast
from batchgen.engine.families.family import Text

SCALES = torch.tensor([4.0, 1.5])
# Of three pictures, the third and the first have second rows.
OWNER = (0, 1, 2, 2, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("renormalised", [False, True])
def test_guidance_is_the_formula_and_leaves_other_pictures_untouched(
    renormalised: bool, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    velocity = torch.randn(5, 7, 16, generator=generator).to(dtype)
    text = Text(torch.zeros(5, 1, 1))
    rows = Rows(OWNER, torch.tensor(OWNER), SCALES, text, renormalised)
    found = contrast(velocity, rows)
    assert found.dtype == dtype
    assert torch.equal(found[1], velocity[1])
    for row, (picture, scale) in enumerate(zip(OWNER[3:], SCALES, strict=True), start=3):
        own, negative = velocity[picture].double(), velocity[row].double()
        guided = negative + scale.double() * (own - negative)
        if renormalised:
            guided = guided * own.norm(dim=-1, keepdim=True) / guided.norm(dim=-1, keepdim=True)
        # Sums and factors are rounded some times each.
        assert (found[picture].double() - guided).abs().max() <= 16 * torch.finfo(dtype).eps
