"""What the device can do at best, measured: matrix products in bf16 and FP8, and the attention
kernels that the engine may choose.

Shapes are those of FLUX.1-dev at 1024 px (4608 tokens, width 3072, 24 heads), and a large square
for comparison with data sheets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, get_args

import torch
from torch import Tensor

from batchgen.engine.attention.kernels import choose_attention
from batchgen.engine.device import Device
from batchgen.errors import JobError
from batchgen.settings.job import EngineSettings

REPEATS = 20
FP8 = torch.float8_e4m3fn
KERNELS = tuple(
    name for name in get_args(EngineSettings.model_fields["attention"].annotation) if name != "auto"
)


def seconds(device: Device, work: Callable[[], object], repeats: int) -> float:
    """Seconds of one call, the mean of many after two to warm up."""
    for _ in range(2):
        work()
    clock = device.clock()
    for _ in range(repeats):
        work()
    clock.mark()
    return sum(clock.laps_s()) / repeats


def measure_ceilings(device: Device, *, small: bool) -> Iterator[dict[str, Any]]:
    """A line each: TFLOP/s, or why there are none."""
    shapes = [(64, 64, 64)] if small else [(4608, 3072, 12288), (8192, 8192, 8192)]
    for name, product in (("bfloat16", _bf16), ("fp8", _fp8)):
        for m, k, n in shapes:
            line = {"row": "ceiling", "name": f"{name} product {m}×{k}×{n}", "precision": name}
            yield line | _attempt(
                device,
                lambda product=product, m=m, k=k, n=n: product(device, m, k, n),
                2.0 * m * k * n,
                small=small,
            )
    tokens, heads, wide = (64, 2, 32) if small else (4608, 24, 128)
    for name in KERNELS:
        line = {"row": "9", "name": f"attention {name}, {tokens} tokens"}
        flop = 4.0 * tokens**2 * heads * wide
        yield line | _attempt(
            device,
            lambda name=name: _attention(device, name, tokens, heads, wide),
            flop,
            small=small,
        )


def _attempt(
    device: Device, prepare: Callable[[], Callable[[], object]], flop: float, *, small: bool
) -> dict[str, Any]:
    try:
        with torch.inference_mode():
            once_s = seconds(device, prepare(), 2 if small else REPEATS)
    except (JobError, RuntimeError, NotImplementedError) as error:
        return {"cannot": str(error).splitlines()[0]}
    return {"call_s": once_s, "tflops": flop / once_s / 1e12}


def _bf16(device: Device, m: int, k: int, n: int) -> Callable[[], object]:
    a, b = (
        torch.randn(shape, device=device.kind, dtype=torch.bfloat16) for shape in ((m, k), (n, k))
    )
    return lambda: a @ b.T


def _fp8(device: Device, m: int, k: int, n: int) -> Callable[[], object]:
    """Scales a row of both, as the engine's linears have them."""
    a, b = (torch.randn(shape, device=device.kind).to(FP8) for shape in ((m, k), (n, k)))
    rows, columns = torch.ones(m, 1, device=device.kind), torch.ones(1, n, device=device.kind)
    return lambda: torch._scaled_mm(
        a, b.T, rows, columns, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def _attention(
    device: Device, name: str, tokens: int, heads: int, wide: int
) -> Callable[[], object]:
    attend, _ = choose_attention(name, device.kind, device.dtype)
    q, k, v = (_random(device, 1, tokens, heads, wide) for _ in range(3))
    return lambda: attend(q, k, v)


def _random(device: Device, *shape: int) -> Tensor:
    return torch.randn(shape, device=device.kind, dtype=device.dtype)
