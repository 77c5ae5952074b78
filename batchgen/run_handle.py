"""A run from Python, whoever made it and wherever it is worked on: to look at, read, send, stop."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen.errors import InputError
from batchgen.run import RunDirectory
from batchgen.shard import SCHEMA, Superseded, published_shards

if TYPE_CHECKING:
    import pyarrow as pa

    from batchgen.dataset import Pushed
    from batchgen.dataset.chosen import Where
    from batchgen.dataset.loader import Pictures
    from batchgen.view.status import Status

AnyPath = str | PathLike[str]

# Seconds between two looks while `wait` waits.
POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class RunHandle:
    """A run on the disk. Every call reads it anew, so that a handle never goes stale."""

    root: Path

    def status(self) -> Status:
        """What is done, who works, what to type next; as `batchgen status`."""
        from batchgen.view.status import read_status

        return read_status(RunDirectory.open(self.root))

    def wait(self, timeout_s: float | None = None) -> Status:
        """Wait until nobody works on the run any more: it is complete, stopped or stalled.

        :param timeout_s: seconds after which the last status is returned all the same; None waits
            for as long as it takes.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while (status := self.status()).state in ("running", "queued"):
            left_s = POLL_S if until is None else until - time.monotonic()
            if left_s <= 0:
                break
            time.sleep(min(POLL_S, left_s))
        return status

    def __fspath__(self) -> str:
        """The run's folder: a handle is taken wherever a path is."""
        return str(self.root)

    def tars(self) -> list[Path]:
        """The published tars, in order. While the run goes on, more appear."""
        return sorted(RunDirectory.open(self.root).data(0).parent.glob("*.tar"))

    def records(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The published records, a row for every picture, failed ones too, in the order of keys.

        A picture that was made again has its last record. Columns that an older version did not
        write are null.

        :param columns: only these; None for all.
        :raises InputError: no record has such a column.
        :raises DamagedRun: a file is damaged; the message says how to mend it.
        """
        import pyarrow as pa

        known = [*SCHEMA.names, "extra"]
        if strange := sorted(set(columns or []) - set(known)):
            there = ", ".join(known)
            raise InputError(f"records have no column {', '.join(strange)}; they have {there}")
        directory = RunDirectory.open(self.root)
        tables, superseded = [SCHEMA.empty_table()], Superseded(directory)
        asked = [*dict.fromkeys([*columns, "index"])] if columns else None
        for shard in sorted(published_shards(directory)):
            tables += superseded.current(shard, asked)
        # Within a shard, pictures of one size stand together.
        table = pa.concat_tables(tables, promote_options="default").sort_by("index")
        return table.select([name for name in columns or known if name in table.column_names])

    def dataset(
        self,
        *,
        split: str | None = None,
        where: Where | None = None,
        decode: str | None = "pil",
        shuffle: int = 1000,
        seed: int = 0,
        epoch: int = 0,
    ) -> Pictures:
        """The pictures as a webdataset pipeline for PyTorch; see `batchgen.dataset`."""
        from batchgen.dataset.loader import dataset

        return dataset(
            self, split=split, where=where, decode=decode, shuffle=shuffle, seed=seed, epoch=epoch
        )

    def push(self, url: AnyPath, *, follow: bool = False, replace: bool = False) -> Pushed:
        """Send what is published to a folder, an object store or the hub, and verify it there.

        :param url: a folder, `hf://datasets/ORG/NAME`, or a URL as `s3://BUCKET/FOLDER`.
        :param follow: go on until the run is complete and everything is there.
        :param replace: replace shards there whose content is another.
        :return: what is there now. Call it again to continue.
        :raises BatchgenError: what the command line refuses, with its message.
        """
        from batchgen.dataset import push_run

        directory = RunDirectory.open(self.root)
        return push_run(directory, fspath(url), follow=follow, replace=replace)

    def cancel(self, *, now: bool = False) -> None:
        """Ask the run to stop after the groups in flight, or at once. `resume` continues it."""
        from batchgen.launch.cancel import cancel

        cancel(RunDirectory.open(self.root), at_once=now)


def attach(run: AnyPath) -> RunHandle:
    """The run in a folder, whoever made it.

    :raises OutputError: there is none.
    """
    return RunHandle(RunDirectory.open(Path(run)).root)
