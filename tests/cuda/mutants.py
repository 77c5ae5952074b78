"""Faults of the program, put in on purpose: each must be told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from batchgen.engine.attention.lengths import RowsAttention
from batchgen.engine.families.flux import Flux
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.ulysses_ring import RanksAttention
from batchgen.engine.torch_engine import TorchEngine
from tests.cuda import streams, tensor

patch = mock.patch.object
_head, _agree, _exchange = Flux.head, Ranks.agree, RanksAttention._exchange
_attend = RowsAttention.attend


@contextlib.contextmanager
def put_in(mutant: str) -> Iterator[None]:
    """A fault of the program, for a while; "" is none."""
    with contextlib.ExitStack() as stack:
        for change in MUTANTS[mutant]() if mutant else ():
            stack.enter_context(change)
        yield


def _stays_on_the_host(_: Any, values: Any) -> Any:
    return torch.tensor(values)


def _asks_at_every_step(family: Any, image: Any, temb: Any) -> Any:
    image.isnan().any().item()
    return _head(family, image, temb)


def _asks_twice(ranks: Any, x: Any) -> Any:
    x.cpu()
    return _agree(ranks, x)


def _goes_on(what: str) -> None:
    streams.report.wait(what)


def _asks_in_attention(attention: Any, q: Any, k: Any, v: Any) -> Any:
    q.isnan().any().item()
    return _attend(attention, q, k, v)


def _receives_into_gaps(_: Any, x: Any, send: Any, receive: Any) -> Any:
    """`Ranks.exchange`, into a buffer that is laid out the other way round."""
    joined = x.new_empty(*x.shape[1:], sum(receive)).movedim(-1, 0)
    dist.all_to_all_single(joined, x, list(receive), list(send), group=None)
    return joined


def _expects_one_more(attention: Any, x: Any, send: Any, receive: Any) -> Any:
    return _exchange(attention, x, send, [receive[0] + 1, *receive[1:]])


def _does_not_wait(ranks: Any, x: Any, incoming: Any) -> Any:
    rotate(ranks, x, incoming)
    return lambda: incoming


rotate = Ranks.rotate
MUTANTS: dict[str, Callable[[], list[Any]]] = {
    "a tensor stays on the host": lambda: [patch(TorchEngine, "_tensor", _stays_on_the_host)],
    "streams do not wait": lambda: [patch(streams.Event, "wait", lambda *_: None)],
    "the host does not wait": lambda: [
        patch(tensor, "wait_for_device", _goes_on),
        patch(streams.Event, "synchronize", lambda _: None),
    ],
    "the host waits at every step": lambda: [patch(Flux, "head", _asks_at_every_step)],
    "a decision waits twice": lambda: [patch(Ranks, "agree", _asks_twice)],
    "attention waits": lambda: [patch(RowsAttention, "attend", _asks_in_attention)],
    "a buffer has gaps": lambda: [patch(Ranks, "exchange", _receives_into_gaps)],
    "a length is wrong": lambda: [patch(RanksAttention, "_exchange", _expects_one_more)],
    "the ring is not waited for": lambda: [patch(Ranks, "rotate", _does_not_wait)],
}
