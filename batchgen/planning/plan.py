"""Job + manifest → shards and groups; fingerprint; estimate. Imports no torch.

Shards are contiguous ranges of pictures; the plan holds ranges and a fingerprint, never prompts, so 10^8 rows cost
O(shards). Inside a shard pictures stand in *plan order* (width, height, steps, with or without negative prompt, key)
and are cut into groups of `batch_size`: what is batched with what never depends on timing, retries or the number of
workers (P5). The plan is immutable (P6): `refuse_change` compares everything the fingerprint covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from batchgen.manifest import Picture, Source
from batchgen.settings import Section

PLAN_VERSION = 1
Ints = npt.NDArray[np.int64]


class Shard(NamedTuple):
    """A contiguous range of pictures."""

    first_key: int
    pictures: int
    row: int  # manifest row of the first picture
    skip: int  # pictures of that row which belong to the shard before


class Shape(NamedTuple):
    """What the pictures of a group share, and how many pictures of the run have it."""

    width: int
    height: int
    steps: int
    negative: bool
    pictures: int


class Plan(Section):
    """A run, frozen. Stored as `.batchgen/plan.json`."""

    version: int = PLAN_VERSION
    run: str
    generation: int = 0
    created: str
    fingerprint: str
    identity: dict[str, Any]  # what the fingerprint covers
    manifest: tuple[str, ...]  # files as found
    sources: tuple[Source, ...]  # Parquet files the workers read
    rows: int
    pictures: int
    over_long: int  # prompts that will be truncated, by consent
    shapes: tuple[Shape, ...]
    has_ids: bool
    groups: int
    shards: tuple[Shard, ...]
    seconds: float  # estimated device time
    bytes: int  # estimated size of the dataset
    speed: str  # what the estimate assumes
    software: dict[str, str]


def plan_order(picture: Picture) -> tuple[int, int, int, bool, int]:
    """The sort key inside a shard."""
    return (
        picture.width,
        picture.height,
        picture.steps,
        picture.negative_prompt != "",
        picture.key,
    )


def groups(pictures: Iterable[Picture], batch_size: int) -> Iterator[list[Picture]]:
    """A shard's pictures in plan order, cut where the shape changes and every `batch_size`."""
    for _, alike in groupby(
        sorted(pictures, key=plan_order), key=lambda picture: plan_order(picture)[:4]
    ):
        run = list(alike)
        yield from (run[at : at + batch_size] for at in range(0, len(run), batch_size))


def now() -> str:
    """The time, for people."""
    return datetime.now(UTC).isoformat(timespec="seconds")
