"""Pixels: groups of pictures in, images out. Knows nothing of shards, tar files or SLURM.

    encode → denoise → decode

`open.py` is the door. `build.py` composes the engine of `stages.py`; the torch-free `pattern.py` is another with the same face, for
rehearsals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from batchgen.manifest import Picture


@dataclass(frozen=True, slots=True)
class Trace:
    """What became of one picture's steps."""

    skipped: str  # a letter a step: 1 skipped, 0 computed
    distances: tuple[float | None, ...]  # a number a step; None where none was measured, or it was not finite


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
    traces: tuple[Trace, ...] = ()  # B: which steps were skipped; () where no cache was asked


@dataclass(frozen=True, slots=True)
class Seat:
    """Where this process stands in its replica: the ranks, a device each, that paint one group together."""

    rank: int = 0
    degree: int = 1
    publish: Callable[[str], None] = lambda _: None  # rank 0: tell the others an address
    find: Callable[[], str] = lambda: ""  # the others: wait for it


@dataclass(frozen=True, slots=True)
class Workload:
    """What a run will ask of its engine: known from the plan, so that it can be made ready for it."""

    sizes: tuple[tuple[int, int], ...]  # (width, height), px
    batch: int  # pictures of a group
    negative: bool  # whether some of them have a negative prompt


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

    def close(self) -> None:
        """No more groups will come."""
