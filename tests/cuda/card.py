"""torch.cuda, and what else of PyTorch must take part. `insert` comes before the program's import.

Stands in for: the module torch.cuda; `torch.tensor` and attention, which choose by device in C++;
`Tensor.data`, whose setter knows no wrapper; `inference_mode`, in which wrappers cannot be viewed,
by `no_grad`.
"""

from __future__ import annotations

import contextlib
import ctypes
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext, _device_constructors

from tests.cuda import streams
from tests.cuda.tensor import CUDA, CudaTensor, compute

NAME = "an emulated card"
# What compilers ask of a card: an H100's answers.
PROPERTIES = SimpleNamespace(
    name=NAME,
    major=9,
    minor=0,
    multi_processor_count=132,
    warp_size=32,
    max_threads_per_block=1024,
    max_threads_per_multi_processor=2048,
    regs_per_multiprocessor=2**16,
    shared_memory_per_block_optin=227 * 2**10,
    L2_cache_size=50 * 2**20,
    total_memory=80 * 2**30,
)
_HERE = Path(__file__).parent


class _NoGrad(torch.no_grad):
    """`torch.inference_mode` with its parameter."""

    def __new__(cls, mode: Any = True) -> Any:
        return torch.no_grad()(mode) if callable(mode) else super().__new__(cls)

    def __init__(self, mode: bool = True) -> None:
        super().__init__()


def build_guard(folder: Path) -> Path:
    """Compile guard.cpp.

    :raises OSError, CalledProcessError: there is no C++ compiler that can.
    """
    torch_folder, guard = Path(torch.__file__).parent, folder / "guard.so"
    command = ["g++", "-std=c++20", "-shared", "-fPIC", _HERE / "guard.cpp", "-o", guard]
    command += [f"-I{torch_folder}/include", f"-L{torch_folder}/lib", "-lc10"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return guard


def insert(guard: Path) -> None:
    """Make PyTorch believe in the card, in this process and for good."""
    ctypes.CDLL(str(guard), mode=ctypes.RTLD_GLOBAL)
    _insert_module()
    _insert_functions()


def _insert_module() -> None:
    stand_ins: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda _=None: NAME,
        "get_device_capability": lambda _=None: (9, 0),
        "get_device_properties": lambda _=None: PROPERTIES,
        "device": lambda _: contextlib.nullcontext(),
        "Stream": streams.Stream,
        "Event": streams.Event,
        "stream": streams.on,
        "current_stream": lambda _=None: streams.current(),
        "synchronize": lambda _=None: streams.current().synchronize(),
        "empty_cache": lambda: None,
        "max_memory_allocated": lambda _=None: 1,
        "reset_peak_memory_stats": lambda _=None: None,
    }
    for name, stand_in in stand_ins.items():
        setattr(torch.cuda, name, stand_in)


def _insert_functions() -> None:
    # `with torch.device(…)` knows functions by identity. It must have seen the real ones.
    _device_constructors()
    made_on_host = torch.tensor

    def tensor(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
        where = _device_of_context() if device is None else torch.device(device)
        if where.type != "cuda":
            return made_on_host(data, device=device, **kwargs)
        return made_on_host(data, device="cpu", **kwargs).to(where)

    # The numbers are on a CPU, which has two kernels: nothing else may be chosen for them.
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    attend_on_host = torch.nn.functional.scaled_dot_product_attention
    attention = torch.ops.aten.scaled_dot_product_attention.default

    def attend(query: Tensor, key: Tensor, value: Tensor, *more: Any, **named: Any) -> Tensor:
        if isinstance(query, CudaTensor):
            out: Tensor = compute(attention, (query, key, value, *more), named)
            return out
        return attend_on_host(query, key, value, *more, **named)

    set_data = Tensor.data.__set__
    get_data = Tensor.data.__get__

    def put(self: Tensor, value: Tensor) -> None:
        if isinstance(self, CudaTensor) or isinstance(value, CudaTensor):
            torch.utils.swap_tensors(self, torch.nn.Parameter(value.detach(), requires_grad=False))
        else:
            set_data(self, value)

    item_of = Tensor.__getitem__

    def part(self: Tensor, index: Any) -> Tensor:
        """A list is an index of the host, which is copied; in C++, past the emulation."""
        if isinstance(self, CudaTensor) and isinstance(index, list):
            index = made_on_host(index, dtype=torch.int64).to(CUDA)
        return item_of(self, index)

    Tensor.__getitem__ = part
    list_on_host = Tensor.tolist
    Tensor.tolist = lambda self: list_on_host(self.cpu())
    Tensor.data = property(get_data, put)
    Tensor.record_stream = lambda self, stream: self.memory.keep_for(stream)
    torch.tensor = tensor
    torch.nn.functional.scaled_dot_product_attention = attend
    torch.inference_mode = _NoGrad
    torch.__future__.set_swap_module_params_on_conversion(True)


def _device_of_context() -> torch.device:
    """Of the innermost `with torch.device(…)`; PyTorch's own question would come back to us."""
    for mode in reversed(_get_current_function_mode_stack()):
        if isinstance(mode, DeviceContext):
            return torch.device(mode.device)
    return torch.device("cpu")


__all__ = ["CUDA", "NAME", "build_guard", "insert"]
