"""PSNR and SSIM are what their definitions say."""

import numpy as np
import pytest

from batchgen import fidelity
from batchgen.fidelity import EQUAL_DB, Pixels, psnr, ssim

RANDOM = np.random.default_rng(0)
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def grey(level: int) -> Pixels:
    return np.full((32, 40, 3), level, np.uint8)


def noisy(picture: Pixels, sigma: float) -> Pixels:
    return np.clip(picture + RANDOM.normal(0, sigma, picture.shape), 0, 255).astype(np.uint8)


def test_psnr_is_what_its_formula_says() -> None:
    assert psnr(grey(100), grey(110)) == pytest.approx(20 * np.log10(255 / 10))
    assert psnr(grey(0), grey(255)) == 0


def test_equal_pictures_have_the_most_that_any_two_can_have() -> None:
    one, other = np.zeros((2, 200, 200, 3), np.uint8)
    assert psnr(one, other) == EQUAL_DB
    other[0, 0, 0] = 1  # 98.9 dB
    assert 98 < psnr(one, other) < EQUAL_DB


def test_ssim_of_flat_pictures_compares_their_means_and_of_equal_ones_is_1() -> None:
    expected = (2 * 100 * 200 + C1) / (100**2 + 200**2 + C1)
    assert ssim(grey(100), grey(200)) == pytest.approx(expected)
    noise = RANDOM.integers(0, 256, (32, 40, 3), np.uint8)
    assert ssim(noise, noise) == 1


def test_ssim_is_the_definition_window_by_window() -> None:
    """Weighted moments of every 11×11 window of every channel, summed directly."""
    one = RANDOM.integers(0, 256, (14, 16, 3), np.uint8)
    other = noisy(one, 20)
    row = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(row, row)[..., None] / np.outer(row, row).sum()
    values = []
    for top in range(14 - 10):
        for left in range(16 - 10):
            x, y = (image[top : top + 11, left : left + 11] * 1.0 for image in (one, other))
            mean_x, mean_y = ((window * part).sum((0, 1)) for part in (x, y))
            away_x, away_y = x - mean_x, y - mean_y
            moments = ((away_x, away_x), (away_y, away_y), (away_x, away_y))
            var_x, var_y, both = ((window * a * b).sum((0, 1)) for a, b in moments)
            top_line = (2 * mean_x * mean_y + C1) * (2 * both + C2)
            values.append(top_line / ((mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2)))
    assert ssim(one, other) == pytest.approx(np.mean(values), abs=1e-9)


@pytest.mark.parametrize("height", [11, 128, 137, 138, 139, 300])
def test_large_pictures_are_compared_strip_by_strip_as_at_once(
    height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = RANDOM.integers(0, 256, (height, 13, 3), np.uint8)
    pair = one, noisy(one, 9)
    strips = psnr(*pair), ssim(*pair)
    monkeypatch.setattr(fidelity, "_STRIP_PX", 10_000)
    assert strips == pytest.approx((psnr(*pair), ssim(*pair)), rel=1e-12)
    mean = np.mean((pair[0].astype(float) - pair[1]) ** 2)
    assert strips[0] == pytest.approx(10 * np.log10(255**2 / mean))


def test_ssim_falls_with_noise_and_is_negative_for_a_negative() -> None:
    picture = RANDOM.integers(64, 192, (48, 48, 3), np.uint8)
    likeness = [ssim(picture, noisy(picture, sigma)) for sigma in (2, 8, 32)]
    assert 1 > likeness[0] > likeness[1] > likeness[2]
    assert ssim(picture, 255 - picture) < -0.5
