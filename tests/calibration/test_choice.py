"""The quickest setting that keeps the floor is chosen; it promises what it has shown."""

import math

import pytest

from batchgen.calibration.choice import Floor, choose
from batchgen.calibration.compare import Likeness, Measured

FLOOR = Floor(40.0, 0.98, 0.95)


def measured(
    name: str, device_s: float, *decibels: float, computed: float = 10.0, noise: float = 0.0
) -> Measured:
    """A setting whose pictures have these PSNR; the rest of 64 have 60 dB."""
    values = [*decibels, *[60.0] * (64 - len(decibels))]
    pictures = tuple(Likeness(key, psnr_db, 0.99) for key, psnr_db in enumerate(values))
    return Measured(name, "run", "plain", pictures, 28.0, computed, device_s, noise)


PLAIN = measured("uncached", 1.0, computed=28.0)


def test_a_picture_keeps_the_floor_by_both_measures() -> None:
    assert FLOOR.keeps(Likeness(0, 40.0, 0.98))
    assert not FLOOR.keeps(Likeness(0, 39.9, 1.0))
    assert not FLOOR.keeps(Likeness(0, 60.0, 0.97))


@pytest.mark.parametrize(("pictures", "allowed"), [(59, 0), (92, 0), (93, 1), (123, 1), (124, 2)])
def test_so_many_misses_are_allowed_as_wilks_has_them(pictures: int, allowed: int) -> None:
    assert FLOOR.allowed(pictures) == allowed


def test_58_pictures_are_too_few_for_95_percent_and_the_sentence_says_how_sure_it_is() -> None:
    assert FLOOR.confidence(59, 0) == pytest.approx(1 - 0.95**59)
    assert FLOOR.confidence(58, 0) < 0.95 < FLOOR.confidence(59, 0)
    assert FLOOR.confidence(10, 1) == pytest.approx(1 - 0.95**10 - 10 * 0.05 * 0.95**9)
    assert FLOOR.told(20).startswith("the worst of 20 sampled pictures at 40 dB and SSIM 0.98")
    assert "with 64.2% confidence (59 pictures give 95%) at least 95% of unseen ones" in FLOOR.told(
        20
    )
    assert "give" not in FLOOR.told(59)
    assert FLOOR.told(93).startswith("all but 1 of 93 ")


def test_the_quickest_that_keeps_the_floor_is_chosen() -> None:
    careful, bold = measured("a-1", 0.5), measured("a-2", 0.3, 41.0, computed=8.0)
    other, broken = measured("b-1", 0.4, computed=7.0), measured("b-2", 0.1, 39.0, computed=2.0)
    choice = choose(PLAIN, [[careful, bold], [other, broken]], FLOOR)
    assert choice.chosen is bold
    assert choice.reason.startswith("the fewest device-seconds")


def test_within_a_policy_fewer_steps_count_and_not_what_else_the_machine_did() -> None:
    careful, bold = measured("a-1", 0.3), measured("a-2", 0.5, computed=8.0)
    assert choose(PLAIN, [[careful, bold]], FLOOR).chosen is bold


def test_what_comes_after_a_failure_is_not_chosen_however_well_it_did() -> None:
    settings = [measured("a-1", 0.5), measured("a-2", 0.3, 39.0), measured("a-3", 0.1)]
    assert choose(PLAIN, [settings], FLOOR).chosen is settings[0]


def test_times_that_the_noise_makes_equal_are_decided_by_computed_steps() -> None:
    first = measured("a-1", 0.50, computed=8.0, noise=0.05)
    second = measured("b-1", 0.45, computed=9.0, noise=0.05)
    assert choose(PLAIN, [[first], [second]], FLOOR).chosen is first
    quiet = [measured(one.name, one.device_s, computed=one.computed) for one in (first, second)]
    assert choose(PLAIN, [quiet[:1], quiet[1:]], FLOOR).chosen is quiet[1]


@pytest.mark.parametrize("tried", [measured("a-1", 0.5, 39.0), measured("a-1", 1.5)])
def test_no_cache_is_recommended_if_none_keeps_the_floor_or_none_is_quicker(
    tried: Measured,
) -> None:
    assert choose(PLAIN, [[tried]], FLOOR).chosen is PLAIN


def test_a_picture_that_was_not_made_is_a_miss() -> None:
    assert FLOOR.misses(measured("a-1", 0.1, 0.0, math.nan)) == 2
