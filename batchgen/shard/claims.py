"""Who works on which shard, and who is dead.

A claim is an attempt-numbered file, made whole and linked: of two workers who want a shard, one gets it. Nothing
is ever unlinked: stealing from a dead owner makes attempt k+1. Claims save time and decide nothing: two owners of
one shard write two partials, and the commit's one link chooses (P4).

Death is asked only when nothing is free. On one machine the owner is a process: host, pid and start time. In SLURM it is
a job's incarnation too, and squeue is asked (slurm.py). Any other owner on another machine is *unknown* and is never stolen
from, unless the person who types `resume --steal` vouches for its death.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from batchgen import durable
from batchgen.run import BUCKET, Owner, RunDirectory
from batchgen.shard.commit import committed_shards
from batchgen.shard.journal import Entry, in_flight, read_journal
from batchgen.slurm import Queue

_CLAIM = re.compile(r"^(\d{6,})\.(\d{4,})$")


@dataclass(frozen=True, slots=True)
class Claim:
    """A shard this worker has, as attempt number `attempt`."""

    directory: RunDirectory
    shard: int
    attempt: int

    def superseded(self) -> bool:
        """Whether a later attempt exists or the shard is done: then this owner stops at the group's border."""
        return (
            self.directory.claim(self.shard, self.attempt + 1).exists()
            or self.directory.done(self.shard).exists()
        )

    def release(self) -> None:
        """Say that this owner left in good order: anyone may go on, and its open group is no death."""
        durable.create(_free_marker(self.directory, self.shard, self.attempt), b"")

    @property
    def earlier(self) -> list[int]:
        """Attempts before this one."""
        return list(range(1, self.attempt))

    def deaths(self) -> list[list[Entry]]:
        """For each earlier attempt that died by itself, and could not say why: the groups it had in flight."""
        journals = [self._journal(attempt) for attempt in self.earlier if self._died(attempt)]
        flights = [
            in_flight(journal)
            for journal in journals
            if all(entry.do != "verdict" for entry in journal)
        ]
        return [flight for flight in flights if flight]

    def verdicts(self) -> list[Entry]:
        """What earlier attempts ended with that could say why, in their order."""
        return [
            entry
            for attempt in self.earlier
            for entry in self._journal(attempt)
            if entry.do == "verdict"
        ]

    def _journal(self, attempt: int) -> list[Entry]:
        return read_journal(self.directory.partial(self.shard, attempt, "journal"))

    def _died(self, attempt: int) -> bool:
        """Whether an attempt's worker died by itself. In SLURM the batch script says so: nodes fail and jobs are preempted all the time."""
        if _free_marker(self.directory, self.shard, attempt).exists():
            return False
        owner = read_owner(self.directory, self.shard, attempt)
        return not owner.job or self.directory.death(owner.job, owner.restarts).exists()


class Claims:
    """Hands out one shard after another: first what nobody has claimed, then what dead or gone owners left.

    Workers start at different places and keep a cursor, so that n workers over s shards look at each shard about once.
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
        """A shard to work on, or None: everything is done, or in hands not known to be dead."""
        for shard in self._fresh:
            if self._take(shard, 1):
                return Claim(self._directory, shard, 1)
        for shard in self.unfinished():
            attempt = self._highest(shard)
            if self._abandoned(shard, attempt) and self._take(shard, attempt + 1):
                return Claim(self._directory, shard, attempt + 1)
        return None

    def wait_s(self) -> float | None:
        """After `next` found nothing: seconds until SLURM can be asked again whether an owner is dead; None where that will not help."""
        return self._queue.wait_s()

    def unfinished(self) -> list[int]:
        """Shards without a commit."""
        return sorted(set(range(self._shards)) - committed_shards(self._directory))

    def _unclaimed(self, start: int) -> Iterator[int]:
        order = [*range(start, self._shards), *range(start)]
        for begin in range(0, len(order), BUCKET):
            window = order[begin : begin + BUCKET]
            folders = {self._directory.claim(shard, 1).parent for shard in window}
            taken = {
                int(match[1])
                for folder in folders
                for path in folder.iterdir()
                if (match := _CLAIM.match(path.name))
            }
            yield from (shard for shard in window if shard not in taken)

    def _take(self, shard: int, attempt: int) -> bool:
        text = json.dumps({"owner": asdict(self._owner), "at": time.time()})
        return durable.create(self._directory.claim(shard, attempt), text.encode())

    def _highest(self, shard: int) -> int:
        attempt = 0
        while self._directory.claim(shard, attempt + 1).exists():
            attempt += 1
        return attempt

    def _abandoned(self, shard: int, attempt: int) -> bool:
        if attempt == 0 or _free_marker(self._directory, shard, attempt).exists():
            return True
        owner = read_owner(self._directory, shard, attempt)
        if owner.job and self._queue.due:
            self._notice_all()
        life = owner.life(self._queue)
        return life == "dead" or (life == "unknown" and self._steal)

    def _notice_all(self) -> None:
        """Before squeue is asked about one owner: note all, so that one listing tells of all."""
        for shard in self.unfinished():
            if attempt := self._highest(shard):
                owner = read_owner(self._directory, shard, attempt)
                if owner.job:
                    self._queue.notice(owner.job, owner.restarts)


def read_owner(directory: RunDirectory, shard: int, attempt: int) -> Owner:
    """Who made a claim."""
    return Owner(**json.loads(directory.claim(shard, attempt).read_bytes())["owner"])


def _free_marker(directory: RunDirectory, shard: int, attempt: int) -> Path:
    path = directory.claim(shard, attempt)
    return path.with_name(path.name + ".free")
