"""Claims: who works on which shard, and whose shard another worker may take.

A claim is a file named after the shard and the attempt, written whole and then linked: of two
workers who want a shard, one gets it. Claims are never removed. To steal from a dead owner is to
make attempt k+1. Claims save time and decide nothing: two owners of one shard write two attempts,
and the link of the commit chooses (P4).

A worker asks who is dead only when no shard is free. It asks the operating system about processes
of this machine and squeue about SLURM jobs. Workers elsewhere cannot be asked: their state is
unknown, and nothing is taken from them unless a person types `resume --steal`.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from batchgen import durable
from batchgen.errors import DamagedRun
from batchgen.run import BUCKET, Owner, RunDirectory, read_state
from batchgen.shard.commit import committed_shards
from batchgen.shard.journal import Entry, in_flight, read_journal
from batchgen.slurm import Queue

log = logging.getLogger(__name__)
_CLAIM = re.compile(r"^(\d{6,})\.(\d{4,})$")


@dataclass(frozen=True, slots=True)
class _Claimed:
    """The content of a claim."""

    owner: Owner
    # Seconds since the epoch.
    at: float


@dataclass(frozen=True, slots=True)
class Claim:
    """A shard that this worker has, as attempt number `attempt`."""

    directory: RunDirectory
    shard: int
    attempt: int

    def superseded(self) -> bool:
        """Whether a later attempt or a commit exists. Then this owner stops after its group."""
        later = self.directory.claim(self.shard, self.attempt + 1)
        return later.exists() or self.directory.done(self.shard).exists()

    def release(self, spare: Path | None = None) -> None:
        """Say that this owner leaves in good order: its groups in flight are not deaths.

        :param spare: a file that becomes the marker if no other can be made.
        """
        marker = _release_marker(self.directory, self.shard, self.attempt)
        try:
            durable.create(marker, b"")
        except OSError as error:
            if spare is None or not durable.is_full(error):
                raise
            durable.create_from(spare, marker, b"")

    @property
    def earlier(self) -> list[int]:
        """The attempts before this one."""
        return list(range(1, self.attempt))

    def deaths(self) -> list[list[Entry]]:
        """The groups in flight at each death of an earlier attempt that wrote no verdict."""
        journals = [self._journal(attempt) for attempt in self.earlier if self._died(attempt)]
        silent = [one for one in journals if all(entry.do != "verdict" for entry in one)]
        return [flight for journal in silent if (flight := in_flight(journal))]

    def verdicts(self) -> list[Entry]:
        """The verdicts of earlier attempts, in their order."""
        entries = (entry for attempt in self.earlier for entry in self._journal(attempt))
        return [entry for entry in entries if entry.do == "verdict"]

    def _journal(self, attempt: int) -> list[Entry]:
        return read_journal(self.directory.partial(self.shard, attempt, "journal"))

    def _died(self, attempt: int) -> bool:
        """Whether an attempt's worker died by itself.

        Nodes fail and jobs are preempted all the time, so in SLURM the job's batch script must
        have said so.
        """
        if _release_marker(self.directory, self.shard, attempt).exists():
            return False
        owner = read_owner(self.directory, self.shard, attempt)
        if owner is None:  # nobody knows whether it died
            return False
        return not owner.job or self.directory.death(owner.job, owner.restarts).exists()


class Claims:
    """Hands out one shard after another: first unclaimed ones, then what dead or gone owners left.

    Workers start at different shards and remember how far they are, so all of them together look
    at each shard about once.
    """

    def __init__(
        self,
        directory: RunDirectory,
        shards: int,
        start: int,
        *,
        steal: bool = False,
        queue: Queue | None = None,
    ) -> None:
        self._directory, self._shards, self._steal = directory, shards, steal
        self._queue = queue or Queue()
        self._fresh = self._unclaimed(start % shards if shards else 0)
        self._owner = Owner.me()

    def next(self) -> Claim | None:
        """A shard to work on. None if all are done, or have owners not known to be dead."""
        for shard in self._fresh:
            if self._take(shard, 1):
                return Claim(self._directory, shard, 1)
        for shard in self.unfinished():
            attempt = last_attempt(self._directory, shard)
            if self._abandoned(shard, attempt) and self._take(shard, attempt + 1):
                return Claim(self._directory, shard, attempt + 1)
        return None

    def wait_s(self) -> float | None:
        """Seconds until SLURM can be asked again who is dead; None if waiting will not help."""
        return self._queue.wait_s()

    def unfinished(self) -> list[int]:
        """Shards without a commit."""
        return sorted(set(range(self._shards)) - committed_shards(self._directory))

    def _unclaimed(self, start: int) -> Iterator[int]:
        order = [*range(start, self._shards), *range(start)]
        for begin in range(0, len(order), BUCKET):
            window = order[begin : begin + BUCKET]
            folders = {self._directory.claim(shard, 1).parent for shard in window}
            names = [path.name for folder in folders for path in folder.iterdir()]
            taken = {int(match[1]) for name in names if (match := _CLAIM.match(name))}
            yield from (shard for shard in window if shard not in taken)

    def _take(self, shard: int, attempt: int) -> bool:
        text = json.dumps(asdict(_Claimed(self._owner, time.time())))
        return durable.create(self._directory.claim(shard, attempt), text.encode())

    def _abandoned(self, shard: int, attempt: int) -> bool:
        if attempt == 0 or _release_marker(self._directory, shard, attempt).exists():
            return True
        owner = read_owner(self._directory, shard, attempt)
        if owner is None:  # should it live after all, then two owners cost time, and no more
            return True
        if owner.job and self._queue.due:
            self._notice_all()
        life = owner.life(self._queue)
        return life == "dead" or (life == "unknown" and self._steal)

    def _notice_all(self) -> None:
        """Tell the queue about every owner before it asks, so that one listing answers for all."""
        for shard in self.unfinished():
            if attempt := last_attempt(self._directory, shard):
                owner = read_owner(self._directory, shard, attempt)
                if owner and owner.job:
                    self._queue.notice(owner.job, owner.restarts)


def read_owner(directory: RunDirectory, shard: int, attempt: int) -> Owner | None:
    """The process that made a claim; None if the claim is damaged."""
    try:
        return read_state(directory.claim(shard, attempt), _Claimed).owner
    except DamagedRun as error:
        log.warning("%s", error)
        return None


def last_attempt(directory: RunDirectory, shard: int) -> int:
    """The number of the last attempt at a shard; 0 if there is none."""
    attempt = 0
    while directory.claim(shard, attempt + 1).exists():
        attempt += 1
    return attempt


def _release_marker(directory: RunDirectory, shard: int, attempt: int) -> Path:
    path = directory.claim(shard, attempt)
    return path.with_name(path.name + ".free")
