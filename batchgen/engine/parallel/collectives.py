"""A replica's ranks: several processes, each with a device, that make the same pictures together.

Each rank holds a share of the tokens. All ranks call the functions below alike, in the same order
and from one thread at a time. The lengths of shares follow from arithmetic (`mesh.shares`) and are
never exchanged. Nearly everything is built on one collective, the all-to-all with unequal parts,
which gloo and NCCL both have. So no length needs padding.

A replica's ranks have a process group without any other ranks. Replicas therefore neither wait for
each other nor fail together. Where a replica has two halves (`cfg = 2`), each half has a group of
its own, and so has every pair of ranks with the same tokens: halves compute without waiting for
each other, until their velocities meet.

Not covered: on CUDA, NCCL's watchdog finds a lost peer and ends the process after the time-out; no
exception is raised.

Legend: L tokens of all ranks, n tokens of one rank.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store

from batchgen.engine.parallel.mesh import Mesh, shares
from batchgen.errors import DeviceFault


class Ranks:
    """This rank among its replica's ranks, or among some of them.

    `Ranks()` is a rank alone: every function returns its input, and torch.distributed is not used.
    """

    def __init__(
        self, rank: int = 0, mesh: Mesh | None = None, group: dist.ProcessGroup | None = None
    ) -> None:
        """Ranks that are not connected; see `connect`.

        :param group: their process group; None for that of the whole replica.
        """
        self.rank, self.mesh = rank, mesh or Mesh()
        self.degree, self._group = self.mesh.degree, group
        # Kept because C++ does not keep a store that is written in Python.
        self._store: Store | None = None
        # Those that share the tokens of the same rows with this rank: its half of the replica.
        self.half: Ranks = self
        # Those that have the same tokens of other rows; None: there is only one half.
        self.branches: Ranks | None = None

    @classmethod
    def connect(
        cls, store: Store, rank: int, mesh: Mesh, device: torch.device, timeout_s: float
    ) -> Ranks:
        """Join the other ranks of the replica, and return when all have joined.

        :param store: the replica's own key-value store; every rank gives the same one.
        :param timeout_s: seconds to wait for a peer, here and in every later exchange.
        :raises DeviceFault: not all ranks came in time.
        """
        ranks = cls(rank, mesh)
        if ranks.degree == 1:
            return ranks
        ranks._store, cuda = store, device.type == "cuda"
        with ranks._peers_needed():
            dist.init_process_group(
                "nccl" if cuda else "gloo",
                store=store,
                rank=rank,
                world_size=ranks.degree,
                timeout=dt.timedelta(seconds=timeout_s),
                # With a device NCCL connects now, not in the first exchange.
                device_id=device if cuda else None,
            )
        ranks.sum(torch.zeros(1, device=device))  # returns when all ranks are there
        if mesh.cfg > 1:
            with ranks._peers_needed():
                ranks._part(timeout_s)
        return ranks

    def _part(self, timeout_s: float) -> None:
        """Give the halves their process groups, and the pairs of ranks with the same tokens."""
        half, place = divmod(self.rank, self.mesh.cp)

        def own_group(parts: list[list[int]]) -> dist.ProcessGroup:
            limit = dt.timedelta(seconds=timeout_s)
            # Every rank takes part in making every group, in the same order.
            groups: list[dist.ProcessGroup] = [
                dist.new_group(ranks, timeout=limit) for ranks in parts
            ]
            (own,) = (number for number, ranks in enumerate(parts) if self.rank in ranks)
            return groups[own]

        alone = self.mesh.cp == 1
        tokens = Mesh(self.mesh.ulysses, self.mesh.ring)
        self.half = Ranks() if alone else Ranks(place, tokens, own_group(self.mesh.halves))
        self.branches = Ranks(half, Mesh(cfg=self.mesh.cfg), own_group(self.mesh.branches))

    def split(self, x: Tensor, dim: int = 1) -> Tensor:
        """This rank's share [.., n, ..] of [.., L, ..]."""
        if self.degree == 1:
            return x
        sizes = shares(x.shape[dim], self.degree)
        return x.narrow(dim, sum(sizes[: self.rank]), sizes[self.rank]).contiguous()

    def gather(self, x: Tensor, length: int, dim: int = 1) -> Tensor:
        """The whole [.., L, ..] from every rank's share [.., n, ..]: the same bits on all ranks.

        :param length: L.
        """
        return self.join(x, shares(length, self.degree), dim)

    def join(self, x: Tensor, lengths: Sequence[int], dim: int) -> Tensor:
        """Every rank's part [.., n, ..], side by side in rank order: the same bits on all ranks.

        :param lengths: n of each rank.
        """
        if self.degree == 1:
            return x
        copies = torch.cat([x.movedim(dim, 0)] * self.degree)
        send = [x.shape[dim]] * self.degree
        return self.exchange(copies, send, lengths).movedim(0, dim).contiguous()

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all ranks: the same bits on all of them.

        It is added up here, in the order of the ranks. The order in which a library's all-reduce
        adds depends on its algorithm and on the links between ranks.
        """
        return x if self.degree == 1 else self.gather(x[None], self.degree, dim=0).sum(0)

    def agree(self, x: Tensor) -> Tensor:
        """Rank 0's value of `x`."""
        if self.degree == 1:
            return x
        x = x.clone()
        with self._peers_needed():
            dist.broadcast(x, group=self._group, group_src=0)
        return x

    def exchange(self, x: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """Send each rank a part of x, and return the parts they sent here, in rank order.

        :param send: lengths along x's first dimension of the parts for rank 0, 1, …
        :param receive: lengths of the parts that rank 0, 1, … send here.
        """
        x, joined = x.contiguous(), x.new_empty(sum(receive), *x.shape[1:])
        with self._peers_needed():
            dist.all_to_all_single(joined, x, list(receive), list(send), group=self._group)
        return joined

    def rotate(self, x: Tensor, incoming: Tensor) -> Callable[[], Tensor]:
        """Begin to send `x` to the ring's next rank and to fill `incoming` from its previous rank.

        Neither tensor may be touched before the returned function has been called: it waits for
        both transfers and returns `incoming`. Empty tensors are not sent; both sides know lengths.
        """
        ulysses = self.mesh.ulysses
        transfers = [
            dist.P2POp(
                operation, tensor, group=self._group, group_peer=(self.rank + step) % self.degree
            )
            for operation, tensor, step in (
                (dist.isend, x, ulysses),
                (dist.irecv, incoming, -ulysses),
            )
            if tensor.numel()
        ]
        with self._peers_needed():
            pending = dist.batch_isend_irecv(transfers) if transfers else []

        def wait(_keep: Tensor = x) -> Tensor:  # x must outlive its sending
            with self._peers_needed():
                for transfer in pending:
                    transfer.wait()
            return incoming

        return wait

    def close(self) -> None:
        """Leave the process group. No exchange may be under way."""
        if self.degree > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @contextlib.contextmanager
    def _peers_needed(self) -> Iterator[None]:
        """An exchange. If it fails, ranks are out of step: nothing more may be computed here."""
        try:
            yield
        except RuntimeError as error:  # what torch.distributed and its stores raise
            raise DeviceFault(
                f"rank {self.rank} of {self.degree}: a peer is gone or did not answer in time: "
                f"{error}"
            ) from error
