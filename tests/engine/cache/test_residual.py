"""Residuals are extrapolated over sigma, each row by its own computed steps."""

import pytest
import torch

from batchgen.engine.cache.residual import Residual
from batchgen.engine.cache.selection import Selection

SIGMAS = [1.0, 0.95, 0.8, 0.78, 0.5, 0.45, 0.2, 0.1, 0.0]
CPU = torch.device("cpu")


def some(*rows: int, of: int = 2) -> Selection:
    """These rows of a batch of `of`."""
    return Selection(rows, of, CPU)


def follow(order, curve, computed):
    """A row whose residual is this function of sigma, computed at these steps."""
    residual = Residual(order, SIGMAS, 1)
    for step in computed:
        residual.renew(step, some(0, of=1), torch.full((1, 1, 1), curve(SIGMAS[step])))
    return residual


@pytest.mark.parametrize(
    ("order", "curve"),
    [(0, lambda s: 3.0), (1, lambda s: 3.0 - 2.0 * s), (2, lambda s: 3.0 - 2.0 * s + 5.0 * s * s)],
)
def test_order_n_follows_a_polynomial_of_degree_n_exactly_and_none_higher(order, curve):
    residual = follow(order, curve, [0, 2, 4])
    for step in (5, 6):
        reused = residual.at(step, some(0, of=1)).item()
        assert reused == pytest.approx(curve(SIGMAS[step]), abs=1e-5)
    if order:
        lower = follow(order - 1, curve, [0, 2, 4])
        assert lower.at(6, some(0, of=1)).item() != pytest.approx(curve(SIGMAS[6]), abs=0.1)


def test_order_one_by_hand():
    """From 10 at sigma 0.8 to 13 at 0.5, the slope is -10; so it is 16 at 0.2."""
    residual = Residual(1, SIGMAS, 1)
    for step, value in ((0, 99.0), (2, 10.0), (4, 13.0)):
        residual.renew(step, some(0, of=1), torch.full((1, 1, 1), value))
    assert residual.at(6, some(0, of=1)).item() == pytest.approx(16.0)


def test_a_row_has_a_lower_order_until_it_has_enough_computed_steps():
    """The parabola s² at sigma 0.2: held at first, then extrapolated linearly, then exact."""
    residuals = [follow(2, lambda s: s * s, computed) for computed in ([0], [0, 4], [0, 2, 4])]
    seen = [residual.at(6, some(0, of=1)).item() for residual in residuals]
    assert seen == pytest.approx([1.0, 0.25 - 0.3 * 1.5, 0.04])


def test_a_trend_goes_on_no_longer_than_it_was_watched():
    """It was computed at sigma 1.0 and 0.95, so the trend ends at 0.9."""
    residual = follow(1, lambda s: s, [0, 1])
    seen = [residual.at(step, some(0, of=1)).item() for step in (2, 4, 7)]
    assert seen == pytest.approx([0.9, 0.9, 0.9])


def test_rows_extrapolate_by_their_own_computed_steps():
    slopes = torch.tensor([1.0, -4.0]).view(2, 1, 1)
    residual = Residual(1, SIGMAS, 2)
    residual.renew(0, some(0, 1), slopes * SIGMAS[0])
    residual.renew(2, some(1), slopes[1:] * SIGMAS[2])
    residual.renew(4, some(0), slopes[:1] * SIGMAS[4])
    residual.renew(5, some(1), slopes[1:] * SIGMAS[5])
    assert residual.at(6, some(0, 1)).flatten().tolist() == pytest.approx([0.2, -0.8])
    assert residual.at(6, some(1)).flatten().tolist() == pytest.approx([-0.8])


def test_tensors_that_are_stored_are_not_changed():
    first, second = torch.ones(2, 1, 1), torch.zeros(1, 1, 1)
    residual = Residual(1, SIGMAS, 2)
    residual.renew(0, some(0, 1), first)
    residual.renew(2, some(1), second)
    assert first.flatten().tolist() == [1, 1]
    assert second.item() == 0


def test_the_first_step_must_compute_all_rows():
    with pytest.raises(AssertionError, match="for all rows"):
        Residual(0, SIGMAS, 2).renew(0, some(1), torch.zeros(1, 1, 1))
