"""One device: what it is, how long work takes on it, how its errors are named."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from batchgen.errors import DeviceFault, JobError, OutOfMemory
from batchgen.settings import EngineSettings

Result = TypeVar("Result")

_LIBRARY_ERRORS = ("CUDA error", "cuDNN error")  # as cuBLAS and cuDNN report through PyTorch
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True)
class Device:
    """Where and in which precision a worker computes."""

    kind: torch.device
    dtype: torch.dtype
    identity: str  # everything that changes rounding: pictures of one run come from one identity

    def attempt(self, work: Callable[[], Result]) -> Result:
        """Do the work; name what the device has against it.

        The error is raised after its handler has ended: a traceback kept in `__context__` would keep the failed group's
        tensors alive while the worker tries half of it.

        :raises OutOfMemory: a smaller group may fit.
        :raises DeviceFault: the device is in an undefined state.
        """
        try:
            # A new thread's current device is the first one, whatever the process chose.
            with (
                torch.cuda.device(self.kind)
                if self.kind.type == "cuda"
                else contextlib.nullcontext()
            ):
                return work()
        except torch.OutOfMemoryError as error:
            memory = str(error)
        except torch.AcceleratorError as error:
            raise DeviceFault(f"{self.identity}: {error}") from None
        except RuntimeError as error:  # PyTorch has no types of their own for a full host and for its libraries' errors
            memory = str(error)
            if memory.startswith(_LIBRARY_ERRORS) and "ALLOC_FAILED" not in memory:
                raise DeviceFault(f"{self.identity}: {memory}") from None
            if "DefaultCPUAllocator" not in memory and "ALLOC_FAILED" not in memory:
                raise
        if self.kind.type == "cuda":
            torch.cuda.empty_cache()
        raise OutOfMemory(f"{self.identity}: {memory}")

    def stream(self) -> Any:
        """A queue of work beside that of the other threads, before which it goes; None where the device has no queues (a CPU)."""
        return torch.cuda.Stream(self.kind, priority=-1) if self.kind.type == "cuda" else None  # type: ignore[no-untyped-call]

    def clock(self) -> Clock:
        """A clock that has just been started on this device's timeline."""
        return Clock(self.kind)

    def peak_bytes(self) -> int:
        """Most memory that tensors took so far; 0 on a CPU, which does not say."""
        return torch.cuda.max_memory_allocated(self.kind) if self.kind.type == "cuda" else 0


class Clock:
    """Seconds of work on the device: CUDA events where work is queued and the host runs ahead, else the host's clock."""

    def __init__(self, kind: torch.device) -> None:
        self._cuda = kind.type == "cuda"
        self._marks: list[Any] = []  # CUDA events, or seconds
        self.mark()

    def mark(self) -> None:
        """The work queued so far ends a lap."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def laps_s(self) -> list[float]:
        """Seconds of each lap; waits for the device."""
        laps = list(itertools.pairwise(self._marks))
        if not self._cuda:
            return [end - begin for begin, end in laps]
        self._marks[-1].synchronize()
        return [begin.elapsed_time(end) / 1000 for begin, end in laps]


def choose_device(settings: EngineSettings, linear: str = "auto") -> Device:
    """The device the job asks for; sets the process's CPU threads, which change rounding.

    :param linear: `precision.linear`; where it names no type of the whole model, that is bf16 on CUDA and fp32 on CPU.
    :raises JobError: a device was asked for that is not there: never another one in its place.
    """
    torch.set_num_threads(settings.threads)
    cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not cuda:
        raise JobError(
            f'engine.device = "cuda": PyTorch {torch.__version__} (built for CUDA: {torch.version.cuda}) sees no CUDA device. '
            "Check nvidia-smi and CUDA_VISIBLE_DEVICES, or --set engine.device=cpu"
        )
    name = "cuda" if cuda and settings.device != "cpu" else "cpu"
    precision = linear if linear in _DTYPES else {"cuda": "bf16", "cpu": "fp32"}[name]
    kind = torch.device(name, torch.cuda.current_device()) if name == "cuda" else torch.device(name)
    if name == "cuda":
        what = f"cuda {torch.cuda.get_device_name(kind)} {precision}"
    else:
        what = (
            f"cpu {torch.backends.cpu.get_cpu_capability()} {precision} threads={settings.threads}"
        )
    return Device(kind, _DTYPES[precision], f"{what} torch={torch.__version__}")
