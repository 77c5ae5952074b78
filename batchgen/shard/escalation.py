"""How carefully groups are made after deaths and verdicts: together, one by one, or not at all.

A worker that dies cannot say why. Its journal says which groups were in flight, and each death
goes one step up:

    no death                     a group is made while the one before is still being written
    one death                    carefully: with nothing else in flight, another death is its own
    two deaths                   one picture at a time
    two deaths of one picture    it is recorded as failed: "killed its worker" (worker.py first
                                 makes sure that its owners are dead)

A replica that fails because of its pictures writes a verdict: which pictures, and why. No other
picture is blamed. The next process does what a process of one rank does at once:

    out of memory                so many pictures of this size are never made together again,
                                 in any shard (`too_large`): the renderer halves them
    out of memory, one picture   it is recorded as failed, the rest of its group is made one by one
    exception                    the group is made one by one
    exception again, alone       it is recorded as failed, with its message

Each verdict halves a size, takes a group apart or ends a picture. So the number of restarts is
bounded by the number of pictures that cannot be made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from batchgen.manifest import Picture
from batchgen.shard.journal import Entry
from batchgen.shard.records import Route

DEATHS_TO_SPLIT = 2
DEATHS_TO_GIVE_UP = 2
KILLED = "killed its worker"
# At least one of these exceptions was raised while the picture was made alone.
EXCEPTIONS_TO_GIVE_UP = 2


@dataclass(frozen=True, slots=True)
class Task:
    """Pictures to make together."""

    # The position of the first picture in the shard's plan order.
    at: int
    pictures: Sequence[Picture]
    # Nothing else may be in flight.
    careful: bool = False
    path: Route = "normal"
    # If there is a cause, the picture was tried often enough: it is recorded as failed, not made.
    cause: str = ""
    error: str = ""


def plan_tasks(
    groups: Sequence[Sequence[Picture]],
    position: int,
    deaths: Sequence[Sequence[Entry]],
    verdicts: Sequence[Entry] = (),
) -> Iterator[Task]:
    """The work left at and after `position`, in plan order.

    :param deaths: the groups in flight at each death (`Claim.deaths`).
    :param verdicts: the verdicts of earlier attempts (`Claim.verdicts`).
    """
    at = 0
    for group in groups:
        left = group[max(position - at, 0) :]
        start = at + len(group) - len(left)
        killed = sum(any(_overlap(entry, at, len(group)) for entry in flight) for flight in deaths)
        mine = [verdict for verdict in verdicts if _overlap(verdict, at, len(group))]
        failed = any(one.cause == "exception" or one.count == 1 for one in mine)
        if left and (killed >= DEATHS_TO_SPLIT or failed or len(left) < len(group)):
            yield from _one_by_one(left, start, deaths, mine)
        elif left:
            yield Task(start, left, killed > 0)
        at += len(group)


def too_large(verdicts: Iterable[Entry]) -> Iterator[tuple[tuple[int, int], int]]:
    """Sizes (width, height) in px, and how many pictures of each did not fit together."""
    for verdict in verdicts:
        if verdict.cause == "out of memory":
            yield (verdict.width, verdict.height), verdict.count


def _one_by_one(
    pictures: Sequence[Picture],
    start: int,
    deaths: Sequence[Sequence[Entry]],
    verdicts: Sequence[Entry],
) -> Iterator[Task]:
    causes = {verdict.cause for verdict in verdicts}
    path: Route = "retry" if "exception" in causes else "oom_split" if causes else "solo"
    for at, picture in enumerate(pictures, start):
        cause, error = _why_given_up(at, deaths, verdicts)
        yield Task(at, [picture], careful=True, path=path, cause=cause, error=error)


def _why_given_up(
    at: int, deaths: Sequence[Sequence[Entry]], verdicts: Sequence[Entry]
) -> tuple[str, str]:
    """Cause and message of a picture that was tried often enough; empty for others."""
    tried = sum(verdict.cause == "exception" and _overlap(verdict, at, 1) for verdict in verdicts)
    for verdict in verdicts:
        alone = (verdict.at, verdict.count) == (at, 1)
        if alone and (verdict.cause == "out of memory" or tried >= EXCEPTIONS_TO_GIVE_UP):
            return verdict.cause, verdict.why
    died_alone = [[(entry.at, entry.count) for entry in flight] for flight in deaths].count(
        [(at, 1)]
    )
    if died_alone >= DEATHS_TO_GIVE_UP:
        return KILLED, "it was alone in flight when two workers died"
    return "", ""


def _overlap(entry: Entry, at: int, count: int) -> bool:
    return entry.at < at + count and at < entry.at + entry.count
