"""A sample that is spread evenly over a run: the middles of as many equal parts as it has room."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate


def middles(total: int, most: int) -> list[int]:
    """Ordinals below `total`: the middles of as many equal parts as there is room for."""
    parts = min(most, total)
    return [(2 * part + 1) * total // (2 * parts) for part in range(parts)]


def spread(counts: Sequence[int], most: int) -> Iterator[tuple[int, list[int]]]:
    """Evenly spread ordinals: the places in `counts` that have some, and which of theirs."""
    ordinals = middles(sum(counts), most)
    for place, end in enumerate(accumulate(counts)):
        begin = end - counts[place]
        if ours := [ordinal - begin for ordinal in ordinals if begin <= ordinal < end]:
            yield place, ours
