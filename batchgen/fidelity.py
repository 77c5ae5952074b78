"""How far one picture is from another: PSNR and SSIM of uint8 RGB pictures [H, W, 3], in numpy."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
# What equal pictures count as, in dB, and the most that any two do, so that a mean over pictures
# stays a number. It is beyond what 8 bits show: one step of 1/255 in a thousandth of all values
# is 78 dB.
EQUAL_DB = 99.0
_FLOATS = npt.NDArray[np.float64]
_RADIUS_PX = 5
_STRIP_PX = 128
_WINDOW = np.exp(-0.5 * (np.arange(-_RADIUS_PX, _RADIUS_PX + 1) / 1.5) ** 2)
_WINDOW /= _WINDOW.sum()


def psnr(one: Pixels, other: Pixels) -> float:
    """Peak signal-to-noise ratio in dB, over all pixels and channels; `EQUAL_DB` at most."""
    total = 0
    for rows in _strips(len(one), overlap=0):
        difference = one[rows].astype(np.int32) - other[rows]
        total += int(np.square(difference).sum(dtype=np.int64))
    if not total:
        return EQUAL_DB
    return min(EQUAL_DB, 10 * math.log10(255**2 * one.size / total))


def ssim(one: Pixels, other: Pixels) -> float:
    """Structural similarity, 1 for equal pictures: the mean over pixels and the channels R, G, B.

    Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861: a Gaussian window of 11 px, sigma
    1.5, and the constants (0.01·255)² and (0.03·255)². Windows that leave the picture are left out,
    so a side has 11 px at least.
    """
    total, count = 0.0, 0
    for rows in _strips(len(one), overlap=2 * _RADIUS_PX):
        values = _likeness(one[rows].astype(np.float64), other[rows].astype(np.float64))
        total, count = total + float(values.sum()), count + values.size
    return total / count


def _strips(height: int, *, overlap: int) -> Iterator[slice]:
    """Rows of a picture, some at a time, so that large ones take little memory."""
    for top in range(0, height - overlap, _STRIP_PX):
        yield slice(top, min(top + _STRIP_PX + overlap, height))


def _likeness(x: _FLOATS, y: _FLOATS) -> _FLOATS:
    """The similarity of every window of every channel: [H, W, 3] → [H - 10, W - 10, 3]."""
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    result: _FLOATS = likeness / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))
    return result


def _blur(x: _FLOATS) -> _FLOATS:
    """[H, W, 3] → [H - 10, W - 10, 3]. The window is symmetric and a product of two rows."""
    for axis in (0, 1):
        size = x.shape[axis] - 2 * _RADIUS_PX
        shifted = [np.moveaxis(x, axis, 0)[at : at + size] for at in range(2 * _RADIUS_PX + 1)]
        blurred = _WINDOW[_RADIUS_PX] * shifted[_RADIUS_PX]
        for at in range(_RADIUS_PX):
            blurred += _WINDOW[at] * (shifted[at] + shifted[-1 - at])
        x = np.moveaxis(blurred, 0, axis)
    return x
