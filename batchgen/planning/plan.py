"""The plan of a run: its shards, and the groups inside a shard.

A shard is a contiguous range of pictures. The plan holds ranges and a fingerprint, never prompts,
so that 10^8 rows cost no more than their shards. Inside a shard the pictures stand in *plan order*
(width, height, steps, with or without negative prompt, key) and are cut into groups of
`batch_size`. What is batched with what therefore never depends on timing, retries or the number of
workers (P5). A plan is never changed (P6): `refuse_change` compares what its fingerprint covers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, Literal, NamedTuple

from pydantic import Field

from batchgen.manifest import JsonType, Picture, Source
from batchgen.model import Ingredient
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


class AddedRows(Section):
    """Rows that were appended to a run's manifest. The fields are those of a plan."""

    manifest: tuple[str, ...]
    sources: tuple[Source, ...]
    # SHA-256 of each file that the user wrote.
    content: tuple[str, ...]
    read_as: str = ""
    rows: int
    # Pictures of these rows.
    pictures: int
    over_long: int


class Generation(Section):
    """Further shards of a run, frozen. Stored as `.batchgen/plan-0001.json`."""

    version: int = GENERATION_VERSION
    # The run's.
    run: str
    generation: int
    # SHA-256 of the file of the generation before.
    parent: str
    # Pictures made again because they failed or were asked for; or pictures that are new: those of
    # appended rows, and those that a trial has left.
    kind: Literal["retry", "remake", "extend", "rest"]
    created: str
    # Its pictures; None: those that follow the last one that was planned.
    listed: KeyList | None = None
    added: AddedRows | None = None
    # How many of its pictures that are new have each shape.
    shapes: tuple[Shape, ...] = ()
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

    @property
    def makes_again(self) -> bool:
        """Whether its pictures had records before."""
        return self.kind in ("retry", "remake")


class Part(NamedTuple):
    """The shards of one generation, and what is in them."""

    generation: int
    # The numbers of its first shard, and of the one after its last.
    first_shard: int
    end_shard: int
    # Its pictures; None: they are consecutive.
    listed: KeyList | None
    # What a shard after its last would begin with, if they are consecutive.
    end: Shard


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
    # Of a trial: the pictures of the whole manifest; and those that are planned, either a list, or
    # the first ones until what a shard after the last would begin with. 0 and None: all of them.
    whole: int = 0
    listed: KeyList | None = None
    end: Shard | None = None
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
    # The model and its LoRAs, for people: their content is in the identity. Empty in older plans
    # and for test cards.
    made_with: tuple[Ingredient, ...] = ()
    later: tuple[Generation, ...] = Field(default=(), exclude=True)

    @property
    def last_generation(self) -> int:
        """The number of the generation that is being made, or was made last."""
        return self.generation + len(self.later)

    @property
    def last_shards(self) -> int:
        """How many shards this generation has."""
        return len(self.later[-1].shards) if self.later else len(self.shards)

    @property
    def left(self) -> int:
        """Pictures of the manifest that a trial has not planned."""
        return max(self.whole - self.pictures, 0)

    @property
    def following(self) -> Shard:
        """What a shard of new pictures would begin with."""
        return self.end or Shard(self.pictures, 0, self.rows, 0)

    def with_generation(self, later: Generation) -> Plan:
        """The plan, continued."""
        changed: dict[str, Any] = {
            "later": (*self.later, later),
            "shards": (*self.shards, *later.shards),
            "groups": self.groups + later.groups,
            "seconds": self.seconds + later.seconds,
            "bytes": self.bytes + later.bytes,
        }
        if not later.makes_again:
            changed |= {
                "pictures": self.pictures + later.pictures,
                "shapes": add_shapes(self.shapes, later.shapes),
                "end": None,
            }
        if added := later.added:
            changed |= {
                "manifest": (*self.manifest, *added.manifest),
                "sources": (*self.sources, *added.sources),
                "rows": self.rows + added.rows,
                "over_long": self.over_long + added.over_long,
                "whole": self.whole and self.whole + added.pictures,
            }
        return self.model_copy(update=changed)

    def parts(self) -> list[Part]:
        """The shards of each generation."""
        found = list[Part]()
        end_shard, end = len(self.shards), self.following
        for one in reversed(self.later):
            found.append(Part(one.generation, one.first_shard, end_shard, one.listed, end))
            end_shard = one.first_shard
            if not one.makes_again:
                first = one.shards[0]
                end = Shard(first.first_key, 0, first.row, first.skip)
        found.append(Part(self.generation, 0, end_shard, self.listed, end))
        return found[::-1]

    def part_of(self, shard: int) -> Part:
        """The generation that has a shard."""
        return next(part for part in reversed(self.parts()) if shard >= part.first_shard)

    @property
    def is_older(self) -> bool:
        """Whether batchgen 0.2 or older has made the plan."""
        return self.version < PLAN_VERSION

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever plans the run is to be told."""
        return self.idle_columns + self.unused_keys + self.remarks


def add_shapes(some: Iterable[Shape], more: Iterable[Shape]) -> tuple[Shape, ...]:
    """The shapes of both, each with the pictures of both."""
    counts: Counter[tuple[int, int, int, bool]] = Counter()
    for one in (*some, *more):
        counts[one[:4]] += one.pictures
    return tuple(Shape(*shape, counts[shape]) for shape in sorted(counts))


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
