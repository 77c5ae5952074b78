"""Which epoch a pass over a pipeline is, in processes that know nothing of each other.

A DataLoader has new workers in each epoch, or the same in all, and each of them begins its pass
when it likes. All must have the same epoch, or pictures would be read twice and others never. They
share memory with the process that has made them. What has to be seen at once is in one number, so
nobody waits for anybody, and a worker that is ended before it begins is not missed.
"""

from __future__ import annotations

import torch
from torch.utils.data import get_worker_info

# Places in the shared memory: the next epoch of this process, the next one of workers, how often
# an epoch was set, and the first epoch of the last workers, with a hash of who they are above it.
_HERE, _NEXT, _SET, _LAST = range(4)
_BITS = 32


class Passes:
    """Counts passes: each is the epoch after the last."""

    def __init__(self, epoch: int) -> None:
        memory = torch.tensor([epoch, epoch, 0, 0])
        self._shared = memory.share_memory_()  # type: ignore[no-untyped-call]
        # Of this process, if it is a worker: whose it is, its first epoch, and its passes since.
        self._whose = -1
        self._first = self._begun = 0

    def set_next(self, epoch: int) -> None:
        """Let the next pass be this epoch."""
        self._shared[_HERE] = self._shared[_NEXT] = epoch
        self._shared[_SET] += 1

    def begin(self) -> int:
        """Begin a pass.

        :return: its epoch.
        """
        worker = get_worker_info()
        if worker is None:
            epoch = int(self._shared[_HERE])
            self._shared[_HERE] = epoch + 1
            return epoch
        # The seed of a DataLoader's workers is drawn each time that they are made.
        whose = hash((worker.seed - worker.id, int(self._shared[_SET]))) % (1 << _BITS - 1)
        if whose != self._whose:
            self._whose, self._first, self._begun = whose, self._first_of(whose), 0
        epoch = self._first + self._begun
        self._begun += 1
        self._shared[_NEXT] = max(int(self._shared[_NEXT]), epoch + 1)
        return epoch

    def _first_of(self, whose: int) -> int:
        """The first epoch of workers who begin together: whoever comes first writes it down."""
        free = int(self._shared[_NEXT])  # read first: it grows only after the other was written
        last, first = divmod(int(self._shared[_LAST]), 1 << _BITS)
        if last != whose:
            first = free
            self._shared[_LAST] = (whose << _BITS) + first
        return first
