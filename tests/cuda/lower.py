"""The code that Inductor writes for an H100, on a machine without a card. It is not even loaded.

A compiled function is called with tensors that have no numbers and say that they are on cuda:0.
Inductor lowers it, as it would there, and its source is kept.

Needs triton, for its language alone: `pip install triton`. CPU builds of PyTorch come without.
Not covered: whatever Inductor would measure on the card, as `max-autotune` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor, nn
from torch._inductor import config
from torch._inductor.graph import GraphLowering
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from triton.backends.compiler import GPUTarget

from tests.cuda.tensor import CUDA, CudaTensor

# H100: capability 9.0, 32 threads a warp.
_TARGET = GPUTarget("cuda", 90, 32)


class _Written(Exception):
    """Code was written, and is not run."""


class _Driver:
    """What triton asks of a card's driver."""

    def is_active(self) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return _TARGET

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0


def prepare() -> None:
    """Make Inductor write for the card, in this process and for good, after `card.insert`."""
    triton.runtime.driver.set_active(_Driver())
    torch.version.cuda = "13.0"
    # The compiler keeps the state of the card's random numbers.
    torch.cuda.get_rng_state = lambda *_: torch.get_rng_state()
    torch.cuda.set_rng_state = lambda *_: None
    FakeTensorMode.avoid_device_init = property(lambda _: True)


def write(function: Callable[..., Any], inputs: dict[str, Any]) -> str:
    """The code of a compiled function, for inputs of these shapes and types.

    It is a Python module that has Triton's kernels as strings.

    :param function: its weights are without numbers: see `strip`.
    """
    stripped = {name: _strip(value) for name, value in inputs.items()}
    with _lowering():
        try:
            function(**stripped)
        except _Written as written:
            return str(written)
    raise AssertionError("nothing was compiled")


def strip(module: nn.Module) -> None:
    """Take the numbers from a module, in place; its tensors are on the card then."""
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(_strip(weight), requires_grad=False))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, _strip(buffer))


_fake = FakeTensorMode(shape_env=ShapeEnv())


def _strip(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_strip, value))
    if not isinstance(value, Tensor):
        return value
    shape, strides = value.shape, value.stride()
    # A weight in 8 bits consists of several tensors.
    if is_traceable_wrapper_subclass(value) and not isinstance(value, CudaTensor):
        names, context = value.__tensor_flatten__()
        parts = {name: _strip(getattr(value, name)) for name in names}
        return type(value).__tensor_unflatten__(parts, context, shape, strides)
    with _fake:
        return torch.empty_strided(shape, strides, dtype=value.dtype, device=CUDA)


@contextlib.contextmanager
def _lowering() -> Iterator[None]:
    with (
        _fake,
        torch.no_grad(),
        mock.patch.object(GraphLowering, "compile_to_module", _keep),
        config.patch(force_disable_caches=True, compile_threads=1),
    ):
        yield


def _keep(graph: GraphLowering) -> Any:
    """In the place of what loads the code: a module that tells its source when it is called."""
    code, _ = graph.codegen()

    def call(*_: Any) -> Any:
        raise _Written(code.value)

    return SimpleNamespace(call=call)
