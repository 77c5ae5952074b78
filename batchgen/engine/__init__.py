"""Pixels: groups of pictures in, images out. Knows nothing of shards, tar files or SLURM.

    encode → denoise → decode

`open.py` is the door: `build.py` makes an `Engine`; the torch-free `pattern.py` makes another with the same face, for rehearsals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from batchgen.manifest import Picture


@dataclass(frozen=True, slots=True)
class Denoised:
    """A group between denoising and decoding. Legend: B pictures of the group, in order."""

    latents: Any  # the engine's own, on its device; opaque to everyone else
    finite: tuple[bool, ...]  # B: whether the picture's latents hold no NaN or infinity
    width: int  # px
    height: int  # px
    text_s: float  # seconds encoding the group's prompts
    denoise_s: float  # seconds in the denoising loop
    peak_bytes: int  # peak device memory so far; 0 where the device does not say


class Engine(Protocol):
    """What a worker asks of an engine. A picture depends on its row and the job alone, up to rounding."""

    identity: str
    """Device kind and numerics, e.g. `cuda NVIDIA H200, bf16`: pictures of one run come from one identity."""

    def denoise(self, group: Sequence[Picture]) -> Denoised:
        """Text and latents of a group whose pictures share width, height, steps and having a negative prompt.

        :raises OutOfMemory: a smaller group may fit.
        :raises DeviceFault: nothing more may be computed in this process.
        """

    def decode(self, denoised: Denoised) -> tuple[npt.NDArray[np.uint8], float]:
        """Pixels, uint8 [B, height, width, 3], RGB, and the seconds it took. May run in another thread while the next group is denoised."""
