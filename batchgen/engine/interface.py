"""Pixels: groups of pictures in, images out. Knows nothing of shards, tar files or SLURM.

    encode → denoise → decode

`open.py` is the door. `build.py` composes the engine of `stages.py`; the torch-free `pattern.py` is another with the same face, for
rehearsals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from batchgen.manifest import Picture


@dataclass(frozen=True, slots=True)
class Trace:
    """What became of one picture's steps."""

    skipped: str  # a letter a step: 1 skipped, 0 computed
    distances: tuple[
        float | None, ...
    ]  # a number a step; None where none was measured, or it was not finite


@dataclass(frozen=True, slots=True)
class Compilation:
    """What compiling came to so far. All zero: nothing is compiled."""

    graphs: int = 0  # made in this process, from the compiler's cache or anew
    cached: int = 0  # of them, found in the cache
    breaks: int = 0  # graph breaks: 0, for a break is an error
    recompilations: int = 0  # needed after the warm-up, and refused
    code_sha256: str = ""  # of the archive the code came from or was published as: it names the code that made a picture


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
class Verdict:
    """Why a replica fails, where its pictures have to do with it: what its next life must do otherwise."""

    cause: Literal["out of memory", "exception"]
    pictures: tuple[int, ...]  # keys of those that were being made together
    why: str  # which rank failed, and its error


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """Where this process stands in its replica: the ranks, a device each, that paint one group together."""

    rank: int = 0
    degree: int = 1
    publish: Callable[[str], None] = lambda _: None  # rank 0: tell the others an address
    find: Callable[[], str] = lambda: ""  # the others: wait for it
    report: Callable[[Verdict], None] = lambda _: (
        None
    )  # rank 0: before it ends with its replica; called by any thread, once


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

    @property
    def compilation(self) -> Compilation:
        """Its compiled code; counts so far."""

    def denoise(self, group: Sequence[Picture]) -> Denoised:
        """Text and latents of a group whose pictures share width, height, steps and having a negative prompt.

        :raises OutOfMemory: a smaller group may fit.
        :raises DeviceFault: nothing more may be computed in this process.
        """

    def decode(self, denoised: Denoised) -> tuple[npt.NDArray[np.uint8], float]:
        """Pixels, uint8 [B, height, width, 3], RGB, and the seconds it took. May run in another thread while the next group is denoised."""

    def close(self) -> None:
        """No more groups will come."""
