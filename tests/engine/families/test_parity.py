"""FLUX.1 is stock diffusers with every technique off.

`test_every_family.py` compares one picture of 6 steps at a time. Here are batches, which stock
makes too, other numbers of steps, scales that ask for nothing, and a model like FLUX.1-schnell.

Tolerance: fp32 latents within 1e-5. Both call the same modules on the same inputs, so on one
machine they agree to the last bits; 1e-5 leaves room for another order of the sums in a matrix
product.
"""

import numpy as np
import pytest

from tests.support.stock import make_picture, stock_call

TOLERANCE = 1e-5


def difference(stock, engine, group):
    theirs = stock_call(stock, group, "latent")
    ours = engine.denoise(group).latents
    assert theirs.shape == ours.shape
    assert theirs.abs().mean() > 0.1
    return (theirs - ours).abs().max().item()


@pytest.mark.parametrize("steps", [1, 28])
def test_latents_equal_stock_at_every_number_of_steps(dev, steps):
    assert difference(*dev, [make_picture(1, steps=steps)]) <= TOLERANCE


def test_a_batch_equals_stock_on_the_same_batch(dev):
    assert difference(*dev, [make_picture(key, guidance=3.5) for key in range(4)]) <= TOLERANCE


@pytest.mark.parametrize("true_cfg", [0.0, 1.0])
def test_a_scale_of_one_or_less_switches_the_negative_prompt_off_as_in_stock(dev, true_cfg):
    group = [make_picture(negative_prompt="a blue circle", true_cfg=true_cfg, steps=3)]
    assert difference(*dev, group) <= TOLERANCE


def test_each_picture_of_a_group_has_its_own_true_cfg(dev):
    stock, engine = dev
    scales = [1.0, 2.5, 0.5, 4.0]
    group = [
        make_picture(key, negative_prompt=f"{key} blue squares", true_cfg=scale, steps=4)
        for key, scale in enumerate(scales)
    ]
    ours = engine.denoise(group).latents
    for picture, latents in zip(group, ours, strict=True):
        theirs = stock_call(stock, [picture], "latent")[0]
        # Singles are compared with a group: matrix products of other sizes round otherwise.
        assert (theirs - latents).abs().max() <= 1e-4


@pytest.mark.parametrize("steps", [1, 4])
def test_a_model_without_embedded_guidance_and_dynamic_shift_equals_stock(schnell, steps):
    group = [make_picture(key, steps=steps, guidance=0.0) for key in range(2)]
    assert difference(*schnell, group) <= TOLERANCE


@pytest.mark.parametrize(("width", "height"), [(128, 128), (192, 128)])
def test_pixels_equal_stock_pictures(dev, width, height):
    stock, engine = dev
    group = [make_picture(key, width=width, height=height, guidance=3.5) for key in range(2)]
    theirs = np.stack([np.asarray(image) for image in stock_call(stock, group, "pil")])
    ours, decode_s = engine.decode(engine.denoise(group))
    assert ours.shape == theirs.shape
    assert ours.dtype == np.uint8
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    # They differ where 255·x is within rounding of a half. Cut off instead of rounded, half of the
    # values would differ.
    assert (ours != theirs).mean() < 0.001
    assert decode_s > 0


def test_a_large_group_is_decoded_in_parts_and_in_order(dev, monkeypatch):
    _, engine = dev
    denoised = engine.denoise([make_picture(key, steps=1) for key in range(3)])
    whole, _ = engine.decode(denoised)
    monkeypatch.setattr("batchgen.engine.sizes.PIXELS_AT_ONCE", 2 * 128 * 128)
    parts, _ = engine.decode(denoised)
    assert np.abs(whole.astype(int) - parts).max() <= 1


def test_latents_that_are_not_finite_are_reported_per_picture(dev):
    _, engine = dev
    poison = make_picture(1, guidance=float("nan"))
    assert engine.denoise([make_picture(), poison, make_picture(2)]).finite == (True, False, True)
