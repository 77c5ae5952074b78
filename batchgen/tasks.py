"""What a shard's groups become after deaths: together, carefully, one by one, or not at all.

A worker that dies is not asked why. Its journal says which groups were in flight, and what follows is a ladder:

    no death                    the group is made while the one before is still being written
    one death                   carefully: nothing else in flight, so that another death is surely its own
    two deaths                  one by one
    two deaths of one picture   recorded as failed: "killed its worker"
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from batchgen.manifest import Picture
from batchgen.partial import Entry
from batchgen.records import Path

DEATHS_TO_SPLIT = 2
DEATHS_TO_CONDEMN = 2


@dataclass(frozen=True, slots=True)
class Task:
    """Pictures to make together."""

    at: int  # position of the first in the shard's plan order
    pictures: Sequence[Picture]
    careful: bool  # nothing else may be in flight
    path: Path
    condemned: bool  # do not make it: it kills workers


def tasks(groups: Sequence[Sequence[Picture]], position: int, deaths: Sequence[Sequence[Entry]]) -> Iterator[Task]:
    """The work left behind `position`, in plan order.

    :param deaths: for each attempt that died, the groups in flight (`Claim.deaths`).
    """
    at = 0
    for group in groups:
        left = group[max(position - at, 0) :]
        start = at + len(group) - len(left)
        killed = sum(any(_overlap(entry, at, len(group)) for entry in flight) for flight in deaths)
        if left and (killed >= DEATHS_TO_SPLIT or len(left) < len(group)):
            yield from _one_by_one(left, start, deaths)
        elif left:
            yield Task(start, left, killed > 0, "normal", condemned=False)
        at += len(group)


def _one_by_one(pictures: Sequence[Picture], at: int, deaths: Sequence[Sequence[Entry]]) -> Iterator[Task]:
    for offset, picture in enumerate(pictures):
        alone = sum(len(flight) == 1 and (flight[0].at, flight[0].count) == (at + offset, 1) for flight in deaths)
        yield Task(at + offset, [picture], careful=True, path="solo", condemned=alone >= DEATHS_TO_CONDEMN)


def _overlap(entry: Entry, at: int, count: int) -> bool:
    return entry.at < at + count and at < entry.at + entry.count
