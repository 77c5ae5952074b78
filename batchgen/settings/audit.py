"""`[audit]`: some pictures are also made without the cache, so that what it costs is known.

No picture depends on it, and so it may change from one `resume` to the next. Which pictures are
chosen depends on their keys and the run's seed alone, so that every attempt chooses the same.
"""

from __future__ import annotations

import hashlib
from typing import Literal

from batchgen.fidelity import EQUAL_DB
from batchgen.settings.section import Above0, Section, setting

_CACHED = ("multistep", "first_block", "teacache", "adacache", "schedule", "replay")


class Audit(Section):
    """Which share of the pictures is compared, and how much the cache may cost them."""

    fraction: float = setting(
        0.0,
        "share of the pictures that are also made without the cache, and compared; 0: none",
        ge=0,
        le=1,
        read_with={"cache.policy": _CACHED},
    )
    min_psnr: float | None = setting(
        None,
        f"dB that an audited picture must reach; equal pictures have {EQUAL_DB:g}; absent: any",
        gt=0,
        lt=EQUAL_DB,
        read_with={"audit.fraction": Above0("0.01")},
    )
    action: Literal["warn", "stop"] = setting(
        "warn",
        'what an audited picture below min_psnr does: "warn" tells of it; "stop" also stops the '
        "run after the groups in flight",
        read_with={"audit.min_psnr": Above0("35")},
    )

    def chooses(self, key: int, seed: int) -> bool:
        """Whether the picture of this key is audited. A larger fraction keeps those it chooses.

        :param seed: the run's, `sampling.seed`.
        """
        return place(key, seed) < self.fraction


def place(key: int, seed: int) -> float:
    """Where a picture stands among all that may be audited, in [0, 1): a hash of its key.

    :param seed: the run's, `sampling.seed`.
    """
    hashed = hashlib.blake2b(f"{seed} {key}".encode(), digest_size=8, person=b"audit")
    return (int.from_bytes(hashed.digest()) >> 11) / 2**53  # the bits that a float holds
