"""How far one picture is from another: PSNR and SSIM of uint8 RGB pictures [H, W, 3], in numpy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
EQUAL_DB = 99.0  # what equal pictures count as, so that a mean over pictures stays a number
_WINDOW = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
_WINDOW /= _WINDOW.sum()


def psnr(one: Pixels, other: Pixels) -> float:
    """Peak signal-to-noise ratio, dB; `EQUAL_DB` at most."""
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return float(min(EQUAL_DB, 10 * np.log10(255**2 / error))) if error else EQUAL_DB


def ssim(one: Pixels, other: Pixels) -> float:
    """Structural similarity, 1 for equal pictures: the mean over pixels and channels, Gaussian
    window of 11 px, sigma 1.5.

    Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861, with its constants (0.01·255)² and
    (0.03·255)²; windows that leave the picture are left out.
    """
    channels = range(one.shape[2])  # one after another: of a large picture, all take gigabytes
    return float(np.mean([_ssim_of(one[..., c], other[..., c]) for c in channels]))


def _ssim_of(one: Pixels, other: Pixels) -> float:
    """The similarity of one channel, [H, W]."""
    x, y = one.astype(np.float64), other.astype(np.float64)
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float(
        np.mean(likeness / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)))
    )


def _blur(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[H, W] → [H - 10, W - 10]."""
    for _ in range(2):  # along the rows, then along what the columns have become
        size = len(x) - len(_WINDOW) + 1
        blurred = np.zeros((size, x.shape[1]))
        for at, weight in enumerate(_WINDOW):
            blurred += weight * x[at : at + size]
        x = blurred.T
    return x
