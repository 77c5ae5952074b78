"""A picture does not depend on what is batched with it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.support.stock import make_picture, psnr

PROMPTS = [
    "a red circle",
    "two blue squares",
    "a green star",
    "a yellow triangle",
    "three red stars",
    "two blue squares",
    "a red circle",
    "",
]


@pytest.mark.slow
def test_a_picture_is_the_same_alone_and_among_seven_others(dev):
    """PSNR ≥ 90 dB on fp32 latents: only the rounding of larger matrix products may differ.

    A wrong seed or guidance gives under 20 dB.
    """
    _, engine = dev
    group = [
        make_picture(key, prompt=prompt, seed=2**40 + key, guidance=1.0 + key)
        for key, prompt in enumerate(PROMPTS)
    ]
    together = engine.denoise(group).latents
    for picture, latents in zip(group, together, strict=True):
        assert psnr(engine.denoise([picture]).latents[0], latents) >= 90


def test_pixels_are_the_same_alone_and_in_a_group(dev):
    _, engine = dev
    group = [make_picture(key) for key in range(4)]
    together, _ = engine.decode(engine.denoise(group))
    for picture, pixels in zip(group, together, strict=True):
        alone, _ = engine.decode(engine.denoise([picture]))
        assert abs(alone[0].astype(int) - pixels).max() <= 1


def test_the_order_of_a_group_is_the_order_of_its_pictures(dev):
    _, engine = dev
    group = [make_picture(key) for key in range(3)]
    forward, backward = engine.denoise(group).latents, engine.denoise(group[::-1]).latents
    assert torch.allclose(forward, backward.flip(0), atol=1e-4)


def test_the_same_group_gives_the_same_bits(dev):
    _, engine = dev
    group = [make_picture(key) for key in range(3)]
    assert torch.equal(engine.denoise(group).latents, engine.denoise(group).latents)


def test_equal_prompts_are_encoded_once(dev, monkeypatch):
    _, engine = dev
    family, seen = engine.family, []
    encode = family.encode
    monkeypatch.setattr(
        family, "encode", lambda prompts: seen.append(list(prompts)) or encode(prompts)
    )
    contrast = {"negative_prompt": "a star", "true_cfg": 2.0}
    engine.denoise(
        [make_picture(key, prompt="a red circle", steps=1, **contrast) for key in range(4)]
    )
    assert seen == [["a red circle", "a star"]]


def test_pictures_of_one_prompt_differ_by_their_seeds(dev):
    _, engine = dev
    one, other = engine.denoise([make_picture(seed=1), make_picture(seed=2)]).latents
    # The caption decides most of the picture; with equal seeds the latents agree to 1e-6.
    assert (one - other).abs().max() > 0.01


def test_a_group_can_be_decoded_in_another_thread_while_the_next_is_denoised(dev):
    _, engine = dev
    groups = [
        [make_picture(key, steps=3) for key in (2 * number, 2 * number + 1)] for number in range(4)
    ]
    expected = [engine.decode(engine.denoise(group))[0] for group in groups]
    with ThreadPoolExecutor(1) as pool:
        decoding = [pool.submit(engine.decode, engine.denoise(group)) for group in groups]
        assert pool.submit(torch.get_num_threads).result() == 1
    for pixels, future in zip(expected, decoding, strict=True):
        assert (future.result()[0] == pixels).all()
