"""The replica's store as PyTorch wants one, for the ranks' process group.

gloo and NCCL exchange the addresses of their own connections through it.
"""

from __future__ import annotations

import datetime as dt

from torch.distributed import DistStoreError
from torch.distributed.distributed_c10d import Store as TorchStore

from batchgen.engine.replica.store import Store

# Keys of process groups, apart from those of the control channel.
_PREFIX = "ranks/"


class ProcessGroupStore(TorchStore):
    """Bytes are kept as texts of as many characters (Latin-1).

    It must be kept for as long as the process group lives: C++ does not keep the Python object.
    """

    # PyTorch's own, which its stubs leave out.
    timeout: dt.timedelta

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store, self._clones = store, list[ProcessGroupStore]()

    def set(self, key: str, value: bytes | str) -> None:
        """Give a key a value."""
        text = value if isinstance(value, str) else value.decode("latin-1")
        self._store.set(_PREFIX + key, text)

    def get(self, key: str) -> bytes:
        """The key's value, once a rank has given it one."""
        value = self._store.get(_PREFIX + key, self.timeout.total_seconds())
        if value is None:
            raise DistStoreError(f"no rank gave a value to {key} within {self.timeout}")
        return value.encode("latin-1")

    def add(self, key: str, number: int) -> int:
        """Add to the key's number, 0 at first, and return the sum."""
        return self._store.add(_PREFIX + key, number)

    def check(self, keys: list[str]) -> bool:
        """Whether all keys have values."""
        return not self._store.missing([_PREFIX + key for key in keys], 0.0)

    def wait(self, keys: list[str], timeout: dt.timedelta | None = None) -> None:
        """Wait until all keys have values."""
        patience = timeout or self.timeout
        asked = [_PREFIX + key for key in keys]
        missing = self._store.missing(asked, patience.total_seconds())
        if missing:
            raise DistStoreError(f"no rank gave values to {missing} within {patience}")

    def clone(self) -> ProcessGroupStore:
        """The same store over another connection."""
        self._clones.append(ProcessGroupStore(self._store.another()))
        return self._clones[-1]
