"""Step caching in the embedded model, a trained FLUX: 128 px, 28 steps, fp32.

Its distances and residuals behave like a large model's, as those of random weights do not. Quality
is the PSNR of decoded pictures against those of the same model without a cache.
"""

import random

import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from batchgen.engine.cache import make_policy
from batchgen.settings.job import parse_job
from tests.engine.families.flux_by_hand import FluxByHand, Painted
from tests.support.stock import psnr

GROUP = range(8)


def policy_of(**cache):
    return make_policy(parse_job({"cache": cache}, "a test").cache, "flux", 6)


@pytest.fixture(scope="module")
def flux():
    torch.set_num_threads(1)
    return FluxByHand()


@pytest.fixture(scope="module")
def plain(flux) -> Painted:
    return flux.paint(None, GROUP)


def quality(flux, painted, reference):
    """PSNR of the pictures in dB: the mean and the worst."""
    difference = flux.pixels(painted.latents) - flux.pixels(reference.latents)
    decibels = -10 * difference.square().flatten(1).mean(1).clamp_min(1e-12).log10()
    return decibels.mean().item(), decibels.min().item()


def test_a_threshold_of_zero_is_no_cache_bit_for_bit(flux):
    expected = flux.paint(None, [0, 1], contrasted=[1]).latents
    for policy in ("first_block", "teacache"):
        zero = policy_of(policy=policy, threshold=0.0, taylor_order=1)
        assert torch.equal(flux.paint(zero, [0, 1], contrasted=[1]).latents, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"policy": "first_block", "threshold": 0.12},
        {"policy": "first_block", "threshold": 0.3, "taylor_order": 1},
        {"policy": "teacache", "threshold": 0.6},
        {"policy": "adacache", "threshold": 0.1},
    ],
    ids=str,
)
def test_a_group_of_eight_equals_its_pictures_alone_in_every_order(flux, settings):
    policy = policy_of(**settings)
    alone = [flux.paint(policy, [key]) for key in GROUP]
    for order in (list(GROUP), random.Random(1).sample(GROUP, 8)):
        together = flux.paint(policy, order)
        assert 0.2 < together.share < 0.9
        assert together.skipped == [alone[key].skipped[0] for key in order]
        for key, latents in zip(order, together.latents, strict=True):
            assert psnr(alone[key].latents[0], latents) >= 90


@pytest.mark.slow
def test_a_contrasted_picture_is_the_same_alone_and_in_a_group(flux):
    policy = policy_of(policy="first_block", threshold=0.2, taylor_order=1)
    together = flux.paint(policy, [3, 4, 5], contrasted=[2, 0])
    for place, key in ((0, 3), (2, 5)):
        alone = flux.paint(policy, [key], contrasted=[0])
        assert alone.skipped == [together.skipped[place]]
        assert psnr(alone.latents[0], together.latents[place]) >= 90


@pytest.mark.slow
def test_extrapolation_skips_four_steps_of_five_at_47_decibels(flux, plain):
    """Measured: 82% of steps at 49 dB mean and 43 worst; without extrapolation 41 and 36."""
    policies = [
        policy_of(policy="first_block", threshold=0.4, taylor_order=order) for order in (0, 1)
    ]
    held, extrapolated = (flux.paint(policy, GROUP) for policy in policies)
    assert min(held.share, extrapolated.share) >= 0.78
    mean, worst = quality(flux, extrapolated, plain)
    assert mean >= 47
    assert worst >= 40
    assert mean >= quality(flux, held, plain)[0] + 6


@pytest.mark.slow
def test_extrapolation_over_sigma_beats_extrapolation_over_steps():
    """The schedule of a 1024 px picture spaces steps unevenly. Measured: 2 dB."""
    flux = FluxByHand(shift=calculate_shift(4096))
    reference = flux.paint(None, GROUP)
    policy = policy_of(policy="first_block", threshold=0.3, taylor_order=1)
    over_sigma = flux.paint(policy, GROUP)
    over_steps = flux.paint(policy, GROUP, gaps=range(flux.steps, -1, -1))
    assert over_sigma.skipped == over_steps.skipped
    assert quality(flux, over_sigma, reference)[0] >= quality(flux, over_steps, reference)[0] + 1


@pytest.mark.slow
def test_two_computed_steps_close_together_do_no_harm(flux, plain):
    """A warm-up shows a trend over one short step, and many skipped steps follow."""
    policy = {"policy": "first_block", "threshold": 0.4, "warmup": 2}
    held = quality(flux, flux.paint(policy_of(**policy, taylor_order=0), GROUP), plain)
    extrapolated = quality(flux, flux.paint(policy_of(**policy, taylor_order=1), GROUP), plain)
    assert extrapolated[1] >= held[1]
