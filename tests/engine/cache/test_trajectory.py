"""Predictions and corrections are polynomials over sigma: their weights against closed forms."""

import pytest

from batchgen.engine.cache.trajectory import Trajectory

SIGMAS = [1.0, 0.95, 0.8, 0.78, 0.5, 0.45, 0.2, 0.1, 0.0]


def follow(order, computed):
    """A picture that computes these steps and skips those between."""
    its = Trajectory(order, SIGMAS)
    for step in range(computed[-1] + 1):
        its.compute(step) if step in computed else its.skip(step)
    return its


def predicted(its, curve, computed, step):
    """v̂ of a step for a velocity that is this function of sigma."""
    values = [curve(SIGMAS[at]) for at in reversed(computed)]
    weights = its.predict(step)
    assert not any(weights[len(values) :]), "what is not known counts nothing"
    return sum(weight * value for weight, value in zip(weights, values, strict=False))


@pytest.mark.parametrize(
    ("order", "curve"),
    [(0, lambda s: 3.0), (1, lambda s: 3.0 - 2.0 * s), (2, lambda s: 3.0 - 2.0 * s + 5.0 * s * s)],
)
def test_order_n_follows_a_polynomial_of_degree_n_exactly_and_none_higher(order, curve):
    computed = [0, 2, 4]
    for step in (5, 6):
        seen = predicted(follow(order, computed), curve, computed, step)
        assert seen == pytest.approx(curve(SIGMAS[step]))
    if order:
        lower = predicted(follow(order - 1, computed), curve, computed, 6)
        assert lower != pytest.approx(curve(SIGMAS[6]), abs=0.1)


def test_order_one_by_hand():
    """From 10 at sigma 0.8 to 13 at 0.5, the slope is -10; so it is 16 at 0.2."""
    newest, before = follow(1, [0, 2, 4]).predict(6)
    assert 13 * newest + 10 * before == pytest.approx(16)


def test_a_picture_has_a_lower_order_until_it_has_enough_computed_steps():
    """The parabola s² at sigma 0.2: held at first, then extrapolated linearly, then exact."""
    seen = [
        predicted(follow(2, computed), lambda s: s * s, computed, 6)
        for computed in ([0], [0, 4], [0, 2, 4])
    ]
    assert seen == pytest.approx([1.0, 0.25 - 0.3 * 1.5, 0.04])


def test_a_trend_goes_on_no_longer_than_it_was_watched():
    """It was computed at sigma 1.0 and 0.95, so the trend ends at 0.9."""
    its = follow(1, [0, 1])
    seen = [predicted(its, lambda s: s, [0, 1], step) for step in (2, 4, 7)]
    assert seen == pytest.approx([0.9, 0.9, 0.9])


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_corrected_stretch_is_as_if_it_had_gone_along_the_parabola(order):
    def curve(sigma):
        return 1 - 2 * sigma + 4 * sigma * sigma

    its, values = follow(order, [0, 2, 4]), [curve(SIGMAS[at]) for at in (7, 4, 2, 0)]
    lacking = 0.0
    for step in (5, 6):
        its.skip(step)
        change = SIGMAS[step + 1] - SIGMAS[step]
        lacking += change * (curve(SIGMAS[step]) - predicted(its, curve, [0, 2, 4], step))
    weights = its.correct(7)
    assert sum(w * v for w, v in zip(weights, values, strict=False)) == pytest.approx(lacking)
    its.compute(7)
    assert not any(its.correct(8)), "it is corrected once"


def test_the_first_stretch_is_corrected_by_the_line():
    """Two velocities are known: of the way from the old to the new, each skipped step has a share.

    They were predicted by the old one.
    """
    its = follow(1, [0])
    for step in (1, 2, 3):
        its.skip(step)
    share = sum(
        (SIGMAS[step + 1] - SIGMAS[step]) * (1 - SIGMAS[step]) / (1 - 0.5) for step in (1, 2, 3)
    )
    assert its.correct(4) == pytest.approx([share, -share, 0])


def test_where_nothing_is_skipped_nothing_is_lacking():
    assert not any(follow(1, [0, 1, 2]).correct(3))


def test_the_first_step_cannot_be_skipped():
    with pytest.raises(AssertionError, match="nothing to go on from"):
        Trajectory(0, SIGMAS).skip(0)
