"""What a worker asks of an engine, and what crosses the border between them. No torch.

`torch_engine.py` and the torch-free `pattern.py` are engines; `replica/` has one of several ranks.

Legend: B pictures of a group, in the group's order; N denoising steps.
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
    """What the cache did at each step of one picture."""

    # One letter a step: 1 skipped, 0 computed.
    skipped: str
    # [N]: what the policy's signal has moved by, or else a computed step's error or change, as
    # `cache/velocities.py` has them. None where nothing was measured, or it was not finite.
    distances: tuple[float | None, ...]
    # Of a picture without a cache, where the job asks for them: its sigmas, and the inner products
    # of its velocities, as `cache/products.py` has them.
    products: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Compilation:
    """Counts of the compiler so far. All are zero where nothing is compiled."""

    # Graphs made in this process, from the compiler's cache or anew.
    graphs: int = 0
    # Graph breaks. A break is an error, so this stays 0.
    breaks: int = 0
    # Recompilations that were needed after the warm-up, and refused.
    recompilations: int = 0
    # The archive that the code was loaded from or published as. It names the code of a picture.
    code_sha256: str = ""


@dataclass(frozen=True, slots=True)
class Denoised:
    """A group between denoising and decoding."""

    # The engine's own, on its device. Nobody else looks inside.
    latents: Any
    # [B]: whether the picture's latents hold neither NaN nor infinity.
    finite: tuple[bool, ...]
    # In pixels.
    width: int
    height: int
    # Seconds that encoding the prompts took, and the denoising loop.
    text_s: float
    denoise_s: float
    # The most device memory so far; 0 where the device does not say.
    peak_bytes: int
    # [B]; empty without a cache, if nothing is recorded.
    traces: tuple[Trace, ...] = ()


@dataclass(frozen=True, slots=True)
class Scored:
    """What a scorer says about one picture."""

    # How well picture and prompt agree, the first label's probability, or the model's number. None
    # if it is not finite.
    value: float | None
    # The most probable labels, and their probabilities; empty where the model has none.
    labels: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The pictures that made a replica fail, and why. Its next life treats them otherwise."""

    cause: Literal["out of memory", "exception"]
    # Keys of the pictures that were being made together.
    pictures: tuple[int, ...]
    # The rank that failed, and its error.
    why: str


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """A process's rank in its replica, and how the ranks find each other.

    The ranks of a replica, each with a device of its own, paint one group together.
    """

    rank: int = 0
    degree: int = 1
    # Rank 0 tells the others its address, which holds a secret: only this user may read it.
    publish: Callable[[str], None] = lambda _: None
    # The others wait for that address.
    find: Callable[[], str] = lambda: ""
    # Rank 0 reports a verdict before it ends with its replica: once, from any thread.
    report: Callable[[Verdict], None] = lambda _: None
    # Whether all ranks are on one machine. If so, no other machine can reach them.
    one_machine: bool = False


class Tell(Protocol):
    """Told what takes time while an engine is made."""

    def __call__(self, text: str, detail: str = "", /) -> None:
        """:param detail: how far it is, as "3 of 12"."""


def _say_nothing(_text: str, _detail: str = "") -> None:
    """The default of `Workload.tell`; unlike a lambda, it can be sent to another process."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What a run will ask of its engine, as its plan says. The engine is made ready for it."""

    # (width, height) in pixels.
    sizes: tuple[tuple[int, int], ...]
    # The most pictures of a group.
    batch: int
    # Whether some pictures have a negative prompt.
    negative: bool
    # Told "loading the model", for example.
    tell: Tell = _say_nothing


class Engine(Protocol):
    """What a worker asks of an engine.

    A picture depends on its row and the job alone, up to rounding.
    """

    # Device and numerics, e.g. `cuda NVIDIA H200 bf16 …`. All pictures of a run have one identity.
    identity: str

    @property
    def compilation(self) -> Compilation:
        """Counts of the engine's compiler so far."""

    def denoise(self, group: Sequence[Picture], *, cached: bool = True) -> Denoised:
        """Encode a group's prompts and denoise its latents.

        :param group: pictures that share width, height and steps, and whether they have a negative
            prompt.
        :param cached: whether steps may be skipped, as the job asks. An audit asks for what they
            would be without; if that fails in a replica, no picture is blamed.
        :raises OutOfMemory: a smaller group may fit.
        :raises DeviceFault: nothing more may be computed in this process.
        """

    def decode(self, denoised: Denoised) -> tuple[npt.NDArray[np.uint8], float]:
        """Decode a group to pixels, uint8 [B, height, width, 3], RGB, and the seconds it took.

        It may run in another thread while the next group is denoised.
        """

    def score(
        self, pixels: Sequence[npt.NDArray[np.uint8]], prompts: Sequence[str]
    ) -> list[Scored]:
        """Score pictures [height, width, 3] with their prompts, as `[score]` asks, in their order.

        It may run in another thread while the next group is denoised.

        :raises OutOfMemory: fewer pictures may fit.
        :raises DeviceFault: nothing more may be computed in this process.
        """

    def close(self) -> None:
        """Release what the engine holds. No more groups will come."""
