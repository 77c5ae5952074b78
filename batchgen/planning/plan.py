"""The plan of a run: its shards, and the groups inside a shard.

A shard is a contiguous range of pictures. The plan holds ranges and a fingerprint, never prompts,
so that 10^8 rows cost no more than their shards. Inside a shard the pictures stand in *plan order*
(width, height, steps, with or without negative prompt, key) and are cut into groups of
`batch_size`. What is batched with what therefore never depends on timing, retries or the number of
workers (P5). A plan is never changed (P6): `refuse_change` compares what its fingerprint covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, Literal, NamedTuple

from pydantic import Field

from batchgen.manifest import JsonType, Picture, Source
from batchgen.settings import Section

# Runs of version 1 keep the records and samples of batchgen 0.2 and older.
PLAN_VERSION = 2
READ_VERSIONS = (1, 2)
GENERATION_VERSION = 1


class Shard(NamedTuple):
    """A contiguous range of pictures."""

    first_key: int
    pictures: int
    # Manifest row of the first picture.
    row: int
    # How many pictures of that row belong to the shard before.
    skip: int


class Shape(NamedTuple):
    """What the pictures of a group share."""

    width: int
    height: int
    steps: int
    negative: bool
    # How many pictures of the run have this shape.
    pictures: int


class KeyList(Section):
    """A frozen list of pictures, a file in `.batchgen/`; see `run/key_lists.py`."""

    file: str
    sha256: str


class Generation(Section):
    """Further shards of a run, frozen. Stored as `.batchgen/plan-0001.json`."""

    version: int = GENERATION_VERSION
    # The run's.
    run: str
    generation: int
    # SHA-256 of the file of the generation before.
    parent: str
    # Pictures made again because they failed or were asked for, or pictures that are new.
    kind: Literal["retry", "remake"]
    created: str
    # Its pictures.
    listed: KeyList
    # Whether their seeds are others than before.
    new_seeds: bool = False
    pictures: int
    groups: int
    first_shard: int
    shards: tuple[Shard, ...]
    # As a plan's.
    seconds: float
    bytes: int
    software: dict[str, str]


class Part(NamedTuple):
    """The shards of one generation, and what is in them."""

    generation: int
    # The numbers of its first shard, and of the one after its last.
    first_shard: int
    end_shard: int
    # Its pictures; None: they are consecutive.
    listed: KeyList | None
    # The manifest row after its last, if they are consecutive.
    end_row: int
    new_seeds: bool = False


class Plan(Section):
    """A run, frozen. Stored as `.batchgen/plan.json`, without its later generations."""

    version: int = PLAN_VERSION
    run: str
    generation: int = 0
    created: str
    fingerprint: str
    # What the fingerprint covers.
    identity: dict[str, Any]
    # The files as they were found.
    manifest: tuple[str, ...]
    # The Parquet files that workers read.
    sources: tuple[Source, ...]
    # How files other than Parquet were read, for people.
    read_as: str = ""
    # Column of the contract → column of the manifest that is read as it; empty in older plans.
    columns: dict[str, str] = Field(default_factory=dict)
    # The manifest's other columns, which travel along.
    travelling: tuple[str, ...] = ()
    # What they are in a sample's JSON, the same in all samples; see `manifest/json_types.py`.
    json_types: dict[str, JsonType] = Field(default_factory=dict)
    rows: int
    pictures: int
    # How many prompts will be truncated, because `model.long_prompts` allows it.
    over_long: int
    shapes: tuple[Shape, ...]
    # Share of the rows that have classifier-free guidance; all of them in older plans, which did
    # not count them.
    contrasted: float = 1.0
    has_ids: bool
    # Columns with values that change no picture, and written keys of the job that no row takes: a
    # sentence each.
    idle_columns: tuple[str, ...] = ()
    unused_keys: tuple[str, ...] = ()
    # What else whoever plans the run is to be told: a sentence each.
    remarks: tuple[str, ...] = ()
    groups: int
    shards: tuple[Shard, ...]
    # Estimated seconds of one device for the whole run.
    seconds: float
    # Estimated size of the dataset.
    bytes: int
    # What the estimate of seconds assumes, for people.
    speed: str
    software: dict[str, str]
    later: tuple[Generation, ...] = Field(default=(), exclude=True)

    @property
    def last_generation(self) -> int:
        """The number of the generation that is being made, or was made last."""
        return self.generation + len(self.later)

    @property
    def last_shards(self) -> int:
        """How many shards this generation has."""
        return len(self.later[-1].shards) if self.later else len(self.shards)

    def with_generation(self, following: Generation) -> Plan:
        """The plan, continued."""
        return self.model_copy(
            update={
                "later": (*self.later, following),
                "shards": (*self.shards, *following.shards),
                "groups": self.groups + following.groups,
                "seconds": self.seconds + following.seconds,
                "bytes": self.bytes + following.bytes,
            }
        )

    def part_of(self, shard: int) -> Part:
        """The generation that has a shard."""
        end = len(self.shards)
        for one in reversed(self.later):
            if shard >= one.first_shard:
                listed = one.listed
                return Part(one.generation, one.first_shard, end, listed, self.rows, one.new_seeds)
            end = one.first_shard
        return Part(self.generation, 0, end, None, self.rows)

    @property
    def is_older(self) -> bool:
        """Whether batchgen 0.2 or older has made the plan."""
        return self.version < PLAN_VERSION

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever plans the run is to be told."""
        return self.idle_columns + self.unused_keys + self.remarks


def plan_order(picture: Picture) -> tuple[int, int, int, bool, int]:
    """The sort key of pictures inside a shard."""
    negative = picture.negative_prompt != ""
    return picture.width, picture.height, picture.steps, negative, picture.key


def groups(pictures: Iterable[Picture], batch_size: int) -> Iterator[list[Picture]]:
    """Cut a shard's pictures, in plan order, where the shape changes and every `batch_size`."""
    for _, alike in groupby(sorted(pictures, key=plan_order), key=lambda one: plan_order(one)[:4]):
        pictures_alike = list(alike)
        for at in range(0, len(pictures_alike), batch_size):
            yield pictures_alike[at : at + batch_size]
