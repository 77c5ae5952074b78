"""Data parallelism over processes of one thread each: on a CPU, threads are far slower."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def launch(entry: Callable[..., None], processes: int, *arguments: object) -> None:
    """Run `entry(rank, *arguments)` in every process of a gloo group, and wait for all."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        os.environ["MASTER_PORT"] = str(probe.getsockname()[1])
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    mp.spawn(_join, (processes, entry, *arguments), processes)


def _join(rank: int, processes: int, entry: Callable[..., None], *arguments: object) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    dist.init_process_group("gloo", rank=rank, world_size=processes)
    entry(rank, *arguments)
    dist.destroy_process_group()


def report(line: str) -> None:
    """Print a line at once, so that a log file can be followed."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Clock:
    """A time budget that all processes share."""

    def __init__(self, minutes: float) -> None:
        self.start_s = time.monotonic()
        self.budget_s = 60 * minutes

    def progress(self) -> float:
        """Return which share of the budget rank 0 has spent, 0 to 1.

        All processes call this together, and so stop together.
        """
        share = torch.tensor((time.monotonic() - self.start_s) / self.budget_s)
        dist.broadcast(share, 0)
        return min(1.0, float(share))


def average_gradients(parameters: Iterable[torch.nn.Parameter], clip: float = 1.0) -> None:
    """Average the gradients over the processes, and clip their norm."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    flat *= (clip / (flat.norm() + 1e-6)).clamp(max=1.0)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
