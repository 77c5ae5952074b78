"""A replica's ranks: several processes, a device each, that paint the same pictures together.

Each holds a share of the tokens. What is split, gathered, summed or agreed on goes through here, and everything here is called by all ranks
alike, in the same order and from one thread; lengths follow from arithmetic (`mesh.shares`) and are never exchanged. One collective does
nearly all of it, the all-to-all with unequal parts, which gloo and NCCL both have: so nothing is padded, whatever the lengths.

A replica is a world of its own: its process group has its ranks and no others, so that replicas neither wait for nor fail with each other.

Not covered: on CUDA a lost peer is found by NCCL's watchdog, which ends the process after the time-out instead of raising.

Legend: L tokens of all ranks, n of one.
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
    """This rank among its replica's. `Ranks()` is a rank alone: everything is the identity, and torch.distributed stays untouched."""

    def __init__(
        self, rank: int = 0, layout: Mesh | None = None, group: dist.ProcessGroup | None = None
    ) -> None:
        """:param group: of exactly these ranks; see `connect`."""
        self.rank, self.mesh, self._group = rank, layout or Mesh(), group
        self.degree = self.mesh.degree

    @classmethod
    def connect(
        cls, store: Store, rank: int, layout: Mesh, device: torch.device, timeout_s: float
    ) -> Ranks:
        """Meet the other ranks of the replica.

        :param store: the replica's own; every rank gives the same one.
        :param timeout_s: seconds to wait for a peer, here and in every exchange to come.
        :raises DeviceFault: not all ranks came in time.
        """
        ranks = cls(rank, layout)
        if ranks.degree == 1:
            return ranks
        cuda = device.type == "cuda"
        with ranks._together():
            dist.init_process_group(
                "nccl" if cuda else "gloo",
                store=store,
                rank=rank,
                world_size=ranks.degree,
                timeout=dt.timedelta(seconds=timeout_s),
                device_id=device
                if cuda
                else None,  # NCCL connects now and not in the first exchange
            )
        ranks._group = dist.group.WORLD
        ranks.sum(
            torch.zeros(1, device=device)
        )  # the first exchange: nobody goes on before all are there
        return ranks

    def another(self, timeout_s: float) -> Ranks:
        """The same ranks with a second process group, for a second thread: in one group its exchanges would meet those of the first."""
        if self.degree == 1:
            return self
        with self._together():
            return Ranks(
                self.rank, self.mesh, dist.new_group(timeout=dt.timedelta(seconds=timeout_s))
            )

    def split(self, x: Tensor, dim: int = 1) -> Tensor:
        """This rank's share [.., n, ..] of [.., L, ..]."""
        if self.degree == 1:
            return x
        sizes = shares(x.shape[dim], self.degree)
        return x.narrow(dim, sum(sizes[: self.rank]), sizes[self.rank]).contiguous()

    def gather(self, x: Tensor, length: int, dim: int = 1) -> Tensor:
        """The whole [.., L, ..] from every rank's share [.., n, ..]: the same bits on all ranks."""
        if self.degree == 1:
            return x
        leading = x.movedim(dim, 0)
        whole = self.exchange(
            torch.cat([leading] * self.degree),
            [x.shape[dim]] * self.degree,
            shares(length, self.degree),
        )
        return whole.movedim(0, dim).contiguous()

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all ranks: the same bits on all of them.

        Added up here, in rank order: the order in which a library's all-reduce adds depends on its algorithm and on who is whose neighbour.
        """
        return x if self.degree == 1 else self.gather(x[None], self.degree, dim=0).sum(0)

    def agree(self, x: Tensor) -> Tensor:
        """Rank 0's value."""
        if self.degree == 1:
            return x
        x = x.clone()
        with self._together():
            dist.broadcast(x, src=0, group=self._group)
        return x

    def exchange(self, x: Tensor, send: Sequence[int], receive: Sequence[int]) -> Tensor:
        """Consecutive parts of x's first dimension go to rank 0, 1, …, and theirs come back, joined in rank order.

        :param send: length of the part for each rank; 0 for none.
        :param receive: length of the part each rank sends here.
        """
        x, joined = x.contiguous(), x.new_empty(sum(receive), *x.shape[1:])
        with self._together():
            dist.all_to_all_single(joined, x, list(receive), list(send), group=self._group)
        return joined

    def rotate(self, x: Tensor, incoming: Tensor) -> Callable[[], Tensor]:
        """Begin to send x to the next rank of the ring and to fill `incoming` from the one before; call the result to wait for it.

        Neither may be touched before. Empty ones are not sent: both sides know.
        """
        ulysses = self.mesh.ulysses
        transfers = [
            dist.P2POp(operation, tensor, (self.rank + step) % self.degree, self._group)
            for operation, tensor, step in (
                (dist.isend, x, ulysses),
                (dist.irecv, incoming, -ulysses),
            )
            if tensor.numel()
        ]
        with self._together():
            pending = dist.batch_isend_irecv(transfers) if transfers else []

        def arrived(_keep: Tensor = x) -> Tensor:  # x must outlive its sending
            with self._together():
                for transfer in pending:
                    transfer.wait()
            return incoming

        return arrived

    def close(self) -> None:
        """Leave in good order, when nothing is under way: the group, or for the first one all of them."""
        if self._group is not None:
            dist.destroy_process_group(self._group)

    def abort(self) -> None:
        """Drop whatever is under way, so that this process can end; when it does, the peers' exchanges fail."""
        if self._group is not None:
            self._group.abort()

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """An exchange; its failure leaves the ranks out of step, so that nothing more may be computed here."""
        try:
            yield
        except RuntimeError as error:  # what torch.distributed and its stores raise
            raise DeviceFault(
                f"rank {self.rank} of {self.degree}: a peer is gone or did not answer in time: {error}"
            ) from error
