"""What a shard's groups become after deaths and verdicts: together, carefully, one by one, or not at all.

A worker that dies is not asked why. Its journal says which groups were in flight, and what follows is a ladder:

    no death                    the group is made while the one before is still being written
    one death                   carefully: nothing else in flight, so that another death is surely its own
    two deaths                  one by one
    two deaths of one picture   recorded as failed: "killed its worker" (after another look at who is dead: worker.py)

A replica that fails over its pictures says so: a verdict, which blames nobody else. It is applied as a rank alone applies it at once:

    out of memory               so many pictures of that size never again, in any shard: parts of half as many (`too_large`, see group.py)
    out of memory, of one       recorded as failed, and the rest of its group one by one
    exception                   the group one by one
    and again, of one picture   recorded as failed, with its message

So each verdict halves a size, takes a group apart or ends a picture: restarts are bounded by the pictures that cannot be made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from batchgen.manifest import Picture
from batchgen.shard.journal import Entry
from batchgen.shard.records import Route

DEATHS_TO_SPLIT = 2
DEATHS_TO_CONDEMN = 2
KILLED = "killed its worker"
EXCEPTIONS_TO_CONDEMN = 2  # one of them, at least, of the picture alone


@dataclass(frozen=True, slots=True)
class Task:
    """Pictures to make together."""

    at: int  # position of the first in the shard's plan order
    pictures: Sequence[Picture]
    careful: bool = False  # nothing else may be in flight
    path: Route = "normal"
    cause: str = ""  # do not make it but record this: it was tried often enough
    error: str = ""


def plan_tasks(
    groups: Sequence[Sequence[Picture]],
    position: int,
    deaths: Sequence[Sequence[Entry]],
    verdicts: Sequence[Entry] = (),
) -> Iterator[Task]:
    """The work left behind `position`, in plan order.

    :param deaths: for each attempt that died, the groups in flight (`Claim.deaths`).
    :param verdicts: of attempts that could say why they ended (`Claim.verdicts`).
    """
    at = 0
    for group in groups:
        left = group[max(position - at, 0) :]
        start = at + len(group) - len(left)
        killed = sum(any(_overlap(entry, at, len(group)) for entry in flight) for flight in deaths)
        mine = [verdict for verdict in verdicts if _overlap(verdict, at, len(group))]
        apart = killed >= DEATHS_TO_SPLIT or any(
            verdict.cause == "exception" or verdict.count == 1 for verdict in mine
        )
        if left and (apart or len(left) < len(group)):
            yield from _one_by_one(left, start, deaths, mine)
        elif left:
            yield Task(start, left, killed > 0)
        at += len(group)


def too_large(verdicts: Iterable[Entry]) -> Iterator[tuple[tuple[int, int], int]]:
    """Sizes (width, height) in px, and how many pictures of each did not fit together, in whichever shard."""
    for verdict in verdicts:
        if verdict.cause == "out of memory":
            yield (verdict.width, verdict.height), verdict.count


def _one_by_one(
    pictures: Sequence[Picture],
    at: int,
    deaths: Sequence[Sequence[Entry]],
    verdicts: Sequence[Entry],
) -> Iterator[Task]:
    causes = {verdict.cause for verdict in verdicts}
    path: Route = "retry" if "exception" in causes else "oom_split" if causes else "solo"
    for place, picture in enumerate(pictures, at):
        cause, error = _sentence(place, deaths, verdicts)
        yield Task(place, [picture], careful=True, path=path, cause=cause, error=error)


def _sentence(
    at: int, deaths: Sequence[Sequence[Entry]], verdicts: Sequence[Entry]
) -> tuple[str, str]:
    """Cause and message of a picture that was tried often enough; "" for others."""
    tried = sum(verdict.cause == "exception" and _overlap(verdict, at, 1) for verdict in verdicts)
    for verdict in verdicts:
        alone = (verdict.at, verdict.count) == (at, 1)
        if alone and (verdict.cause == "out of memory" or tried >= EXCEPTIONS_TO_CONDEMN):
            return verdict.cause, verdict.why
    if (
        sum(len(flight) == 1 and (flight[0].at, flight[0].count) == (at, 1) for flight in deaths)
        >= DEATHS_TO_CONDEMN
    ):
        return KILLED, "it was alone in flight when two workers died"
    return "", ""


def _overlap(entry: Entry, at: int, count: int) -> bool:
    return entry.at < at + count and at < entry.at + entry.count
