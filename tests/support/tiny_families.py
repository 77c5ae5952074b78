"""Small models of every family with random weights, saved as their pipelines save them.

The weights are drawn from a seed. No file is committed.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from tests.support.tiny_chroma import CHROMA
from tests.support.tiny_ernie_image import ERNIE
from tests.support.tiny_flux2_dev import DEV as FLUX2_DEV
from tests.support.tiny_klein import KLEIN, save_klein
from tests.support.tiny_qwen_image import QWEN_IMAGE
from tests.support.tiny_t5_families import DEV, SD3
from tests.support.tiny_zimage import ZIMAGE

FAMILIES = {
    "flux dev": DEV,
    "sd3": SD3,
    "chroma": CHROMA,
    "ernie image": ERNIE,
    "flux2 dev": FLUX2_DEV,
    "qwen image": QWEN_IMAGE,
    "z-image": ZIMAGE,
    "klein base": KLEIN,
    "klein distilled": replace(
        KLEIN, save=partial(save_klein, distilled=True), contrasts=False, broken=()
    ),
}
