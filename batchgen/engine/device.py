"""One device: what it is, how long work takes on it, and what its errors mean."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from batchgen.errors import DeviceFault, JobError, OutOfMemory
from batchgen.settings import EngineSettings

Result = TypeVar("Result")

# What full memory is called by PyTorch's allocators, the CUDA runtime, the driver, Triton and NCCL;
# by cuBLAS and cuDNN; on the host; and where PyTorch, about to say that the device is full, cannot
# ask NVML for the numbers (https://github.com/pytorch/pytorch/issues/112377).
_FULL = ("out of memory", "_ALLOC_FAILED", "DefaultCPUAllocator", "NVML_SUCCESS == ")
# How errors of the device begin: of the runtime, cuBLAS and PyTorch's kernels; of cuDNN; of the
# driver, from compiled code; and of Triton's kernels.
_FAULTS = ("CUDA error", "cuDNN error", "CUDA driver error", "Triton Error [CUDA]")
_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True, slots=True)
class Device:
    """Where and in which precision a worker computes."""

    kind: torch.device
    dtype: torch.dtype
    # Everything that changes rounding. All pictures of a run come from one identity.
    identity: str

    def attempt(self, work: Callable[[], Result]) -> Result:
        """Do the work, and turn PyTorch's errors into the engine's.

        The error is raised after its handler has ended: a traceback kept in `__context__` would
        keep the failed group's tensors alive while the worker tries half of the group.

        :raises OutOfMemory: a smaller group may fit.
        :raises DeviceFault: the device is in an undefined state.
        """
        cuda = self.kind.type == "cuda"
        try:
            # A new thread's current device is the first one, whatever the process chose.
            with torch.cuda.device(self.kind) if cuda else contextlib.nullcontext():
                return work()
        # `torch.OutOfMemoryError` and `torch.AcceleratorError` are among them. The same fault comes
        # as either, or as neither, depending on who met it first: words tell more than types.
        except RuntimeError as error:
            message, meaning = str(error), _meaning(error)
            if meaning is None and self._answers():
                raise
        if meaning is OutOfMemory and self._answers():
            raise OutOfMemory(f"{self.identity}: {message}")
        raise DeviceFault(f"{self.identity}: {message}")

    def _answers(self) -> bool:
        """Whether the device still works, after an error. Waits for it, and frees unused memory.

        After an illegal access every later call fails too, and the first error may have been only
        an echo of it, under any name. A CPU has no such state.
        """
        if self.kind.type != "cuda":
            return True
        try:
            torch.cuda.synchronize(self.kind)
            torch.cuda.empty_cache()
        except RuntimeError:
            return False
        return True

    def stream(self) -> Any:
        """A CUDA stream that goes before the other threads' work; None on a CPU, which has none."""
        if self.kind.type != "cuda":
            return None
        return torch.cuda.Stream(self.kind, priority=-1)  # type: ignore[no-untyped-call]

    def clock(self) -> Clock:
        """A clock that has just been started on this device's timeline."""
        return Clock(self.kind)

    def peak_bytes(self) -> int:
        """The most memory that tensors took so far; 0 on a CPU, which does not say."""
        return torch.cuda.max_memory_allocated(self.kind) if self.kind.type == "cuda" else 0


def upload(
    numbers: Tensor | Sequence[Any], device: torch.device, dtype: torch.dtype | None = None
) -> Tensor:
    """Numbers of the host, nested or a tensor, as a tensor on the device. Nobody waits.

    A copy from ordinary memory would keep the host until all is done that was queued before. From
    pinned memory, which PyTorch holds until it was read, a copy is queued like any other work.
    """
    host = torch.as_tensor(numbers, dtype=dtype)
    if device.type == "cuda" and host.numel():
        host = host.pin_memory()
    return host.to(device, non_blocking=True)


def _meaning(error: RuntimeError) -> type[OutOfMemory | DeviceFault] | None:
    """What an error says of the device; None: nothing."""
    message = str(error)
    # First, because full memory too may begin as a fault does: `CUDA error: out of memory`.
    if isinstance(error, torch.OutOfMemoryError) or any(words in message for words in _FULL):
        return OutOfMemory
    if isinstance(error, torch.AcceleratorError) or message.startswith(_FAULTS):
        return DeviceFault
    return None


class Clock:
    """Seconds of work on a device.

    CUDA events measure queued work, because the host runs ahead. On a CPU the host's clock does.
    """

    def __init__(self, kind: torch.device) -> None:
        self._cuda = kind.type == "cuda"
        # CUDA events, or seconds.
        self._marks: list[Any] = []
        self.mark()

    def mark(self) -> None:
        """End a lap after the work that is queued so far."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._marks.append(event)
        else:
            self._marks.append(time.perf_counter())

    def laps_s(self) -> list[float]:
        """Seconds of each lap. Waits for the device."""
        laps = list(itertools.pairwise(self._marks))
        if not self._cuda:
            return [end - begin for begin, end in laps]
        self._marks[-1].synchronize()
        return [begin.elapsed_time(end) / 1000 for begin, end in laps]


def _given_a_card() -> bool:
    """Whether this process was placed on a card, and PyTorch is built to use it."""
    cards = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    return torch.version.cuda is not None and cards not in ("", "-1")


def choose_device(settings: EngineSettings, linear: str = "auto") -> Device:
    """The device that a job asks for. Also sets what changes rounding: the process's CPU threads,
    and that fp32 on CUDA has all its bits. PyTorch would let convolutions drop 13 (TF32).

    :param linear: `precision.linear`. Where it is neither `bf16` nor `fp32`, the model is bf16 on
        CUDA and fp32 on a CPU.
    :raises JobError: the device is missing. Another one never takes its place.
    """
    torch.set_num_threads(settings.threads)
    cuda = torch.cuda.is_available()
    # "auto" on a machine whose card cannot be used would be a hundred times slower, in silence.
    wanted = settings.device == "cuda" or (settings.device == "auto" and _given_a_card())
    if wanted and not cuda:
        raise JobError(
            f'engine.device = "{settings.device}": PyTorch {torch.__version__} '
            f"(built for CUDA: {torch.version.cuda}) sees no CUDA device. "
            "Check nvidia-smi and CUDA_VISIBLE_DEVICES, or --set engine.device=cpu"
        )
    if cuda and settings.device != "cpu":
        kind, default = torch.device("cuda", torch.cuda.current_device()), "bf16"
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        hardware, threads = f"cuda {torch.cuda.get_device_name(kind)}", ""
    else:
        kind, default = torch.device("cpu"), "fp32"
        hardware = f"cpu {torch.backends.cpu.get_cpu_capability()}"
        threads = f" threads={settings.threads}"
    precision = linear if linear in _DTYPES else default
    identity = f"{hardware} {precision}{threads} torch={torch.__version__}"
    return Device(kind, _DTYPES[precision], identity)
