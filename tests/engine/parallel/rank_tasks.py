"""Tasks for the processes of `tests.support.replica_processes`.

Each task makes its data from a seed, so that all ranks have the same data.
"""

import functools
import hashlib
import itertools
import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.functional import scaled_dot_product_attention

from batchgen.engine import torch_engine
from batchgen.engine.attention.lengths import Lengths
from batchgen.engine.attention.log_sum_exp import choose_attend_part
from batchgen.engine.build import build_engine
from batchgen.engine.cache import make_policy
from batchgen.engine.cache.probe import Probe
from batchgen.engine.families.flux import Flux
from batchgen.engine.interface import Compilation, Engine, Workload
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.ulysses_ring import RanksAttention
from batchgen.engine.replica import replica
from batchgen.engine.replica.control import ControlChannel
from batchgen.engine.torch_engine import TorchEngine
from batchgen.errors import ModelError
from batchgen.manifest import Picture
from batchgen.model.checkpoint import resolve
from batchgen.settings.job import Cache, Job

HEADS, WIDTH = 4, 16
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def digest(x: Tensor) -> str:
    return hashlib.sha256(x.float().numpy().tobytes()).hexdigest()


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


def rows_alone(qkv: Tensor, text: int, own: Sequence[int]) -> Tensor:
    """Attention of each row to its own text tokens and to all image tokens."""
    out = []
    for row, length in enumerate(own):
        q, k, v = qkv[:, row : row + 1]
        k, v = (torch.cat([x[:, :length], x[:, text:]], dim=1) for x in (k, v))
        out.append(sdpa(q, k, v))
    return torch.cat(out)


def share(ranks: Ranks, x: Tensor, text: int) -> Tensor:
    """This rank's text share, then its image share."""
    return torch.cat([ranks.split(x[:, :text]), ranks.split(x[:, text:])], dim=1)


def whole(ranks: Ranks, x: Tensor, text: int, image: int) -> Tensor:
    local = ranks.split(torch.empty(1, text)).shape[1]
    return torch.cat([ranks.gather(x[:, :local], text), ranks.gather(x[:, local:], image)], dim=1)


def attend(
    ranks: Ranks,
    rows: int,
    text: int,
    image: int,
    dtype: str = "fp32",
    kernel: str = "sdpa",
    scale: float = 1.0,
    own: Sequence[int] | None = None,
) -> Any:
    """Attention over the ranks: its largest error, and a digest of what this rank gathered."""
    torch.manual_seed(rows + text + image)
    qkv = torch.randn(3, rows, text + image, HEADS, WIDTH, dtype=DTYPES[dtype]) * scale
    attention = RanksAttention(
        ranks, HEADS, Lengths(text, image, own), sdpa, choose_attend_part(kernel)
    )
    with torch.inference_mode():
        out = whole(ranks, attention(*(share(ranks, x, text) for x in qkv)), text, image)
        expected = sdpa(*qkv) if own is None else rows_alone(qkv, text, own)
    assert out.shape == expected.shape
    assert out.dtype == expected.dtype
    return (out - expected).abs().max().item(), digest(out)


def regather(ranks: Ranks, length: int, dtype: str) -> bool:
    """Whether gathering undoes splitting, along the first, a middle and the last dimension."""
    x = ranks.agree(torch.randn(length, length, length).to(getattr(torch, dtype)))
    shares = [ranks.split(x, dim) for dim in range(3)]
    fewest, most = length // ranks.degree, -(-length // ranks.degree)
    assert all(fewest <= part.shape[dim] <= most for dim, part in enumerate(shares))
    return all(torch.equal(ranks.gather(part, length, dim), x) for dim, part in enumerate(shares))


def total(ranks: Ranks) -> list[float]:
    """Two sums over the ranks: of numbers whose sum depends on the order, and of the ranks."""
    x = torch.tensor([1.0, 1e8, -1e8, 3e-8]).roll(ranks.rank)
    return ranks.sum(torch.stack([x[0], torch.tensor(float(ranks.rank))])).tolist()


def decision(ranks: Ranks) -> tuple[list[bool], list[bool]]:
    """What the ranks agreed on, and this rank's own value, which must not have changed."""
    mine = torch.tensor([ranks.rank == 0, ranks.rank == 1, True])
    return ranks.agree(mine).tolist(), mine.tolist()


class Block(nn.Module):
    """Enough of a transformer block to be compiled."""

    def __init__(self, attention: RanksAttention) -> None:
        super().__init__()
        width = HEADS * WIDTH
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (HEADS, WIDTH)) for part in self.qkv(x).chunk(3, dim=-1))
        return x + self.out(self.attention(q, k, v).flatten(2))


@torch.inference_mode()
def compiled(ranks: Ranks, dtype: str, backend: str) -> tuple[float, int, int]:
    """A block compiled for several batch sizes: largest error against eager, graphs, breaks."""
    torch.manual_seed(0)
    torch._inductor.config.compile_threads = 1
    torch._dynamo.reset()
    counters.clear()
    text, image = 7, 30
    attention = RanksAttention(ranks, HEADS, Lengths(text, image), sdpa, choose_attend_part("sdpa"))
    block = Block(attention).to(DTYPES[dtype])
    fast = torch.compile(block, fullgraph=True, backend=backend)
    errors = []
    for rows in (3, 2, 5):
        everything = torch.randn(rows, text + image, HEADS * WIDTH, dtype=DTYPES[dtype])
        x = share(ranks, everything, text)
        torch._dynamo.mark_dynamic(x, 0)
        errors.append((fast(x) - block(x)).abs().max().item())
    return max(errors), counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def linear_over_ranks(ranks: Ranks, kind: str) -> bool:
    """Whether an 8-bit linear gives each token the same bits in this rank's share and in all."""
    # Imported here, because torchao takes seconds to import.
    from batchgen.engine.precision.quantize import Format, quantize_linear

    torch.manual_seed(0)
    linear, x = nn.Linear(128, 384), torch.randn(2, 97, 128)
    quantize_linear(linear, Format(kind))
    with torch.inference_mode():
        return torch.equal(ranks.gather(linear(ranks.split(x)), 97), linear(x))


def check_operator(ranks: Ranks) -> None:
    """PyTorch's own checks of the operator: its schema and its fake tensors' shapes."""
    attention = RanksAttention(ranks, HEADS, Lengths(7, 30), sdpa, choose_attend_part("sdpa"))
    q, k, v = (share(ranks, torch.randn(2, 37, HEADS, WIDTH), 7) for _ in range(3))
    operator = torch.ops.batchgen.attend.default
    torch.library.opcheck(
        operator, (q, k, v, attention._handle), test_utils=("test_schema", "test_faketensor")
    )


def build(ranks: Ranks, heads: int) -> None:
    RanksAttention(ranks, heads, Lengths(), sdpa, choose_attend_part("math"))


def exit_at_once(_: Ranks) -> None:
    os._exit(1)


class Painted(NamedTuple):
    """A group as one rank has made it."""

    # [B, T, C] fp32.
    latents: Tensor
    # A digest of the latents.
    bits: str
    # For each picture a letter a step, and a distance a step. Empty without a cache.
    skipped: list[str]
    distances: list[tuple[float | None, ...]]


@functools.cache
def engine_of(ranks: Ranks, job: Job, work: Workload | None = None) -> TorchEngine:
    return build_engine(job, resolve(job.model), ranks, work)


def count_compiled(_: Ranks) -> int:
    """Graphs that this process has compiled; those it loaded do not count."""
    return int(counters["inductor"]["fxgraph_cache_miss"])


def start(ranks: Ranks, job: Job, work: Workload) -> Compilation:
    """Build an engine that is compiled for this work."""
    torch._inductor.config.compile_threads = 1
    return engine_of(ranks, job, work).compilation


def paint(
    ranks: Ranks, job: Job, group: Sequence[Picture], work: Workload | None = None
) -> Painted:
    """Make a group with the whole engine. Jobs that differ only in `[cache]` share an engine."""
    engine = engine_of(ranks, job.model_copy(update={"cache": Cache()}), work)
    engine.policy = make_policy(job.cache, resolve(job.model).family, len(engine.family.blocks))
    denoised = engine.denoise(group)
    skipped = [trace.skipped for trace in denoised.traces]
    distances = [trace.distances for trace in denoised.traces]
    return Painted(denoised.latents.float(), digest(denoised.latents), skipped, distances)


def paint_apart(
    ranks: Ranks, job: Job, group: list[Picture], rate: float = 1.0
) -> tuple[Painted, list[float]]:
    """As `paint`, but each rank measures another signal; also returns this rank's own distances.

    The signal grows by `rate` a step, on rank 0 by a hundredth of it.
    """
    steps, own = itertools.count(), []

    def measured(probe: Probe, values: Tensor) -> list[float]:
        own_rate = rate if ranks.rank else rate / 100
        return measure(probe, torch.full_like(values, 1 + next(steps) * own_rate))

    def total(ranks: Ranks, sums: Tensor) -> Tensor:
        own.append((sums[0] / sums[1])[0].item())
        return add(ranks, sums)

    add, measure = Ranks.sum, Probe.measure
    with mock.patch.object(Probe, "measure", measured), mock.patch.object(Ranks, "sum", total):
        return paint(ranks, job, group), own


def identity(engine: Engine) -> str:
    return engine.identity


class Made(NamedTuple):
    """A group as a caller of the engine has it."""

    # [B, T, C].
    latents: Tensor
    # [B, H, W, 3].
    pixels: npt.NDArray[np.uint8]
    # For each picture a letter a step.
    skipped: list[str]


def make(engine: Engine, groups: Sequence[Sequence[Picture]], *, cached: bool = True) -> list[Made]:
    """Make groups as the pipeline does: each is decoded in a thread while the next is denoised."""
    with ThreadPoolExecutor(1) as pool:
        denoised, decoding = [], []
        for group in groups:
            denoised.append(engine.denoise(group, cached=cached))
            decoding.append(pool.submit(engine.decode, denoised[-1]))
    made = []
    for group, future in zip(denoised, decoding, strict=True):
        # A replica's leader numbers its latents.
        latents = group.latents[1] if isinstance(group.latents, tuple) else group.latents
        skipped = [trace.skipped for trace in group.traces]
        made.append(Made(latents, future.result()[0], skipped))
    return made


def decode_late(engine: Engine, first: list[Picture], second: list[Picture]) -> None:
    """Decode the first group when the second has been denoised for a second."""
    denoised = engine.denoise(first)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: time.sleep(1) or engine.decode(denoised))
        engine.denoise(second)


def spoil(fault: str, call: int, mark: Path) -> None:
    """Make this process fail in its `call`-th step, and write the time to the file `mark`.

    :param fault: "raise" an exception, "fill" the memory, "hang", "kill" or "freeze".
    """
    calls, head = itertools.count(1), Flux.head

    def spoilt(family: Flux, *arguments: Any) -> Tensor:
        if next(calls) == call:
            mark.write_text(str(time.monotonic()))
            if fault == "raise":
                raise RuntimeError("spoilt")
            if fault == "fill":
                raise torch.OutOfMemoryError("spoilt")
            if fault == "hang":
                time.sleep(1000)
            os.kill(os.getpid(), signal.SIGKILL if fault == "kill" else signal.SIGSTOP)
        return head(family, *arguments)

    Flux.head = spoilt


def spoil_decoding() -> None:
    """Leave this process without the memory to decode."""

    def decode_latents(*_: Any) -> None:
        raise torch.OutOfMemoryError("spoilt")

    torch_engine.decode_latents = decode_latents


def slow_to_receive() -> None:
    """Make this process wait for seconds before it receives a call."""
    receive = ControlChannel.receive
    ControlChannel.receive = lambda channel: time.sleep(6) or receive(channel)


def no_model() -> None:
    """Let this process find no model."""

    def build_engine(*_: Any) -> None:
        raise ModelError("there is none")

    replica.build_engine = build_engine
