"""What the ranks are told to do. Each task makes its data from a seed, so that all ranks hold the same."""

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

from batchgen.engine import build
from batchgen.engine.attention.log_sum_exp import choose_attend_part
from batchgen.engine.build import build_engine
from batchgen.engine.cache import make_policy
from batchgen.engine.cache.step_cache import StepCache
from batchgen.engine.families.flux import Flux
from batchgen.engine.interface import Compilation, Engine, Workload
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.ulysses_ring import RanksAttention
from batchgen.engine.replica.control import ControlChannel
from batchgen.engine.torch_engine import TorchEngine
from batchgen.engine.vae import decode
from batchgen.errors import ModelError
from batchgen.manifest import Picture
from batchgen.model.checkpoint import resolve
from batchgen.settings.job import Cache, Job

HEADS, WIDTH = 4, 16
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


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
) -> Any:
    """Largest error of attention over the ranks against the whole on one, and the bits that this rank holds after gathering."""
    torch.manual_seed(rows + text + image)
    qkv = torch.randn(3, rows, text + image, HEADS, WIDTH, dtype=DTYPES[dtype]) * scale
    attention = RanksAttention(ranks, HEADS, sdpa, choose_attend_part(kernel))
    attention.set_lengths(text, image)
    with torch.inference_mode():
        out = whole(ranks, attention(*(share(ranks, x, text) for x in qkv)), text, image)
        expected = sdpa(*qkv)
    assert out.shape == expected.shape
    assert out.dtype == expected.dtype
    return (out - expected).abs().max().item(), hashlib.sha256(
        out.float().numpy().tobytes()
    ).hexdigest()


def regather(ranks: Ranks, length: int, dtype: str) -> bool:
    """Whether what was split is whole again, along the first, a middle and the last dimension; and shares differ by one at most."""
    x = torch.randn(length, length, length).to(getattr(torch, dtype))
    x = ranks.agree(x)
    shares = [ranks.split(x, dim) for dim in range(3)]
    assert all(
        length // ranks.degree <= part.shape[dim] <= -(-length // ranks.degree)
        for dim, part in enumerate(shares)
    )
    return all(torch.equal(ranks.gather(part, length, dim), x) for dim, part in enumerate(shares))


def total(ranks: Ranks) -> list[float]:
    """The sum over ranks of numbers whose sum depends on the order."""
    x = torch.tensor([1.0, 1e8, -1e8, 3e-8]).roll(ranks.rank)
    return ranks.sum(torch.stack([x[0], torch.tensor(float(ranks.rank))])).tolist()


def decision(ranks: Ranks) -> tuple[list[bool], list[bool]]:
    """What rank 0 decided, and what this rank had thought, which must not change under its hands."""
    mine = torch.tensor([ranks.rank == 0, ranks.rank == 1, True])
    return ranks.agree(mine).tolist(), mine.tolist()


def in_two_threads(ranks: Ranks) -> tuple[float, bool]:
    """Attention in one thread while another gathers over a second group: the largest error, and whether all was gathered right."""
    second = ranks.another(timeout_s=60)
    x = torch.arange(50.0)
    with ThreadPoolExecutor(1) as pool:
        gathered = pool.submit(
            lambda: all(
                torch.equal(second.gather(second.split(x, 0), 50, 0), x) for _ in range(100)
            )
        )
        error = max(attend(ranks, 2, 7, 30)[0] for _ in range(20))
    whole_again = gathered.result()
    second.close()
    return error, whole_again


class Block(nn.Module):
    """Enough of a transformer block to be compiled."""

    def __init__(self, attention: RanksAttention) -> None:
        super().__init__()
        self.qkv, self.out = (
            nn.Linear(HEADS * WIDTH, 3 * HEADS * WIDTH),
            nn.Linear(HEADS * WIDTH, HEADS * WIDTH),
        )
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (HEADS, WIDTH)) for part in self.qkv(x).chunk(3, dim=-1))
        return x + self.out(self.attention(q, k, v).flatten(2))


@torch.inference_mode()
def compiled(ranks: Ranks, dtype: str, backend: str) -> tuple[float, int, int]:
    """A compiled block against the same one eager, for several batch sizes: largest error, number of graphs, graph breaks."""
    torch.manual_seed(0)
    torch._inductor.config.compile_threads = 1
    torch._dynamo.reset()
    counters.clear()
    text, image = 7, 30
    attention = RanksAttention(ranks, HEADS, sdpa, choose_attend_part("sdpa"))
    attention.set_lengths(text, image)
    block = Block(attention).to(DTYPES[dtype])
    fast = torch.compile(block, fullgraph=True, backend=backend)
    errors = []
    for rows in (3, 2, 5):
        x = share(ranks, torch.randn(rows, text + image, HEADS * WIDTH, dtype=DTYPES[dtype]), text)
        torch._dynamo.mark_dynamic(x, 0)
        errors.append((fast(x) - block(x)).abs().max().item())
    return max(errors), counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


def linear_over_ranks(ranks: Ranks, kind: str) -> bool:
    """Whether a linear in 8 bits gives each token of this rank's share the very bits it has in the whole."""
    from batchgen.engine.precision.quantize import (  # here: torchao takes seconds to import
        Format,
        quantize_linear,
    )

    torch.manual_seed(0)
    linear, x = nn.Linear(128, 384), torch.randn(2, 97, 128)
    quantize_linear(linear, Format(kind))
    with torch.inference_mode():
        return torch.equal(ranks.gather(linear(ranks.split(x)), 97), linear(x))


def check_operator(ranks: Ranks) -> None:
    """PyTorch's own checks of the operator: its schema is true and its shapes are foreseen."""
    attention = RanksAttention(ranks, HEADS, sdpa, choose_attend_part("sdpa"))
    attention.set_lengths(7, 30)
    q, k, v = (share(ranks, torch.randn(2, 37, HEADS, WIDTH), 7) for _ in range(3))
    operator = torch.ops.batchgen.attend_over_ranks.default
    torch.library.opcheck(
        operator, (q, k, v, attention._handle), test_utils=("test_schema", "test_faketensor")
    )


def build(ranks: Ranks, heads: int) -> None:
    RanksAttention(ranks, heads, sdpa, choose_attend_part("math"))


def quit_in_disorder(ranks: Ranks) -> None:
    ranks.abort()
    os._exit(1)


class Painted(NamedTuple):
    """A group as one rank has it."""

    latents: Tensor  # [B, T, C] fp32
    bits: str  # digest of the latents as they are
    skipped: list[str]  # [B], a letter a step; [] without a cache
    distances: list[tuple[float | None, ...]]  # [B], a number a step


@functools.cache
def engine_of(ranks: Ranks, job: Job, work: Workload | None = None) -> TorchEngine:
    return build_engine(job, resolve(job.model), ranks, work)


def start(ranks: Ranks, job: Job, work: Workload) -> Compilation:
    """Have an engine, compiled for this work."""
    torch._inductor.config.compile_threads = 1
    return engine_of(ranks, job, work).compilation


def paint(
    ranks: Ranks, job: Job, group: Sequence[Picture], work: Workload | None = None
) -> Painted:
    """A group through the whole engine; jobs that differ in nothing but their cache share an engine."""
    engine = engine_of(ranks, job.model_copy(update={"cache": Cache()}), work)
    engine.policy = make_policy(job.cache, resolve(job.model).family, len(engine.family.blocks))
    denoised = engine.denoise(group)
    latents = denoised.latents.float()
    traces = denoised.traces
    bits = hashlib.sha256(latents.numpy().tobytes()).hexdigest()
    return Painted(
        latents, bits, [trace.skipped for trace in traces], [trace.distances for trace in traces]
    )


def paint_apart(
    ranks: Ranks, job: Job, group: list[Picture], rate: float = 1.0
) -> tuple[Painted, list[float]]:
    """As `paint`, with a signal that grows by `rate` a step, by a hundredth of it on rank 0; and this rank's own distances."""
    steps, own = itertools.count(), []

    def signal(cache: StepCache, embedded: Tensor, *_: Any) -> Tensor:
        return torch.full_like(embedded, 1 + next(steps) * (rate if ranks.rank else rate / 100))

    def total(ranks: Ranks, sums: Tensor) -> Tensor:
        own.append((sums[0] / sums[1])[0].item())
        return add(ranks, sums)

    add = Ranks.sum
    with mock.patch.object(StepCache, "_signal", signal), mock.patch.object(Ranks, "sum", total):
        return paint(ranks, job, group), own


def identity(engine: Engine) -> str:
    return engine.identity


class Made(NamedTuple):
    """A group as a caller of the engine has it."""

    latents: Tensor  # [B, T, C]
    pixels: npt.NDArray[np.uint8]  # [B, H, W, 3]
    skipped: list[str]  # [B]


def make(engine: Engine, groups: Sequence[Sequence[Picture]]) -> list[Made]:
    """As the pipeline does: a group is decoded in another thread while the next one is denoised."""
    with ThreadPoolExecutor(1) as pool:
        denoised = []
        decoding = []
        for group in groups:
            denoised.append(engine.denoise(group))
            decoding.append(pool.submit(engine.decode, denoised[-1]))
        pixels = [future.result()[0] for future in decoding]
    return [
        Made(
            one.latents[1] if isinstance(one.latents, tuple) else one.latents,
            picture,
            [trace.skipped for trace in one.traces],
        )
        for one, picture in zip(denoised, pixels, strict=True)
    ]


def decode_late(engine: Engine, first: list[Picture], second: list[Picture]) -> None:
    """Asked to decode the first group in the middle of denoising the second."""
    denoised = engine.denoise(first)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: time.sleep(1) or engine.decode(denoised))
        engine.denoise(second)


def spoil(deed: str, call: int, mark: Path) -> None:
    """From now on, in the `call`-th step of this process: raise, be full, be killed, hang, or freeze. `mark` tells when."""
    calls, head = itertools.count(1), Flux.head

    def spoilt(family: Flux, *words: Any) -> Tensor:
        if next(calls) == call:
            mark.write_text(str(time.monotonic()))
            if deed == "raise":
                raise RuntimeError("spoilt")
            if deed == "fill":
                raise torch.OutOfMemoryError("spoilt")
            if deed == "hang":
                time.sleep(1000)
            os.kill(os.getpid(), signal.SIGKILL if deed == "kill" else signal.SIGSTOP)
        return head(family, *words)

    Flux.head = spoilt


def spoil_decoding() -> None:
    """From now on, this process does not have the memory to decode."""

    def decode_latents(*_: Any) -> None:
        raise torch.OutOfMemoryError("spoilt")

    decode.decode_latents = decode_latents


def hard_of_hearing() -> None:
    """From now on, this process takes seconds to hear a call."""
    hear = ControlChannel.hear
    ControlChannel.hear = lambda bond: time.sleep(6) or hear(bond)


def no_model() -> None:
    """From now on, this process finds no model."""

    def build_engine(*_: Any) -> None:
        raise ModelError("there is none")

    build.build_engine = build_engine
