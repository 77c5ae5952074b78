"""Pictures are compared by key; times say how noisy they are."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from batchgen.calibration.compare import _computed, _likeness, _noise

GREY = np.full((16, 16, 3), 100, np.uint8)


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_is_as_far_as_its_pixels_and_one_that_is_missing_is_as_far_as_can_be() -> None:
    off = _likeness(3, png(GREY + np.uint8(5)), png(GREY))
    assert (off.key, off.psnr_db) == (3, pytest.approx(20 * np.log10(255 / 5)))
    assert 0.99 < off.ssim < 1
    same = _likeness(3, png(GREY), png(GREY))
    assert (same.psnr_db, same.ssim) == (99, 1)
    gone = _likeness(3, None, png(GREY))
    assert (gone.psnr_db, gone.ssim) == (0, 0)


def test_without_a_cache_every_step_is_computed() -> None:
    assert _computed({"skipped": "", "steps": 28}) == 28
    assert _computed({"skipped": "0110", "steps": 4}) == 2


def record(seconds: float, *, width: int = 128, group_size: int = 8) -> dict[str, Any]:
    shape = {"width": width, "height": 128, "steps": 28, "negative_prompt": ""}
    return {"device_s": seconds / group_size, **shape, "group_size": group_size}


def test_the_noise_is_the_spread_of_groups_of_equal_work_over_the_root_of_their_number() -> None:
    """A group's records share one time, and groups of other work may take other times."""
    quiet = [*[record(1.0)] * 8, *[record(1.0 + 1e-9)] * 8, *[record(9.0, width=192)] * 8]
    assert _noise(quiet) < 1e-8
    assert _noise([record(1.0), record(2.0, group_size=3)]) == 0
    # Two groups 10% below and above their mean: standard deviation √2 · 10%, of two groups.
    assert _noise([*[record(0.9)] * 8, *[record(1.1)] * 8]) == pytest.approx(0.1)
