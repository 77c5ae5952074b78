"""Job + manifest → shards and groups; fingerprint; estimate. Imports no torch.

Shards are contiguous ranges of pictures; the plan holds ranges and a fingerprint, never prompts, so 10^8 rows cost
O(shards). Inside a shard pictures stand in *plan order* (width, height, steps, with or without negative prompt, key)
and are cut into groups of `batch_size`: what is batched with what never depends on timing, retries or the number of
workers (P5). The plan is immutable (P6): `refuse_change` compares everything the fingerprint covers.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from batchgen.checkpoint import Checkpoint
from batchgen.errors import PlanChanged
from batchgen.job import Job, Section
from batchgen.manifest import Picture, Shapes, Source
from batchgen.models import TINY

PLAN_VERSION = 1
SHARD_SECONDS = 15 * 60
SHARD_BYTES = 10**9
SMALL_RUN_SHARDS = 8
GPU_FLOPS = 3.7e14  # 2,080 TFLOP in 5.58 s: FLUX.1-dev, 1024 px, 28 steps, diffusers without compilation, H200
CPU_FLOPS = 5e10  # the embedded model on one core of a server with AVX-512
CARD_SECONDS = 0.004  # drawing and encoding a test card
BYTES_PER_PIXEL = {"jpg": 0.7, "png": 1.8, "webp": 0.4, "lossless": 1.3}  # photographs at quality 95
SAMPLE_OVERHEAD = 4096  # tar headers and padding, prompt, JSON
_RADIX = 1 << 15  # above every width, height and number of steps
Ints = npt.NDArray[np.int64]
PACKAGES = ("batchgen", "torch", "diffusers", "transformers", "numpy", "pillow", "pyarrow")  # those that can change a byte of the output


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


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one picture costs on average. The assumption is for people to judge it by."""

    seconds: float
    bytes: float
    speed: str


def plan_order(picture: Picture) -> tuple[int, int, int, bool, int]:
    """The sort key inside a shard."""
    return (picture.width, picture.height, picture.steps, picture.negative_prompt != "", picture.key)


def groups(pictures: Iterable[Picture], batch_size: int) -> Iterator[list[Picture]]:
    """A shard's pictures in plan order, cut where the shape changes and every `batch_size`."""
    for _, alike in groupby(sorted(pictures, key=plan_order), key=lambda picture: plan_order(picture)[:4]):
        run = list(alike)
        yield from (run[at : at + batch_size] for at in range(0, len(run), batch_size))


def shard_size(pictures: int, batch_size: int, estimate: Estimate) -> int:
    """Pictures a shard: about 15 minutes or 1 GB of work, and in small runs an eighth of it; whole groups."""
    by_time = SHARD_SECONDS / max(estimate.seconds, 1e-9)
    by_bytes = SHARD_BYTES / max(estimate.bytes, 1.0)
    size = max(1, min(by_time, by_bytes, pictures / SMALL_RUN_SHARDS))
    return int(-(-size // batch_size)) * batch_size


@dataclass(slots=True)
class Cutter:
    """Cuts the stream of rows into shards of `size` pictures, and counts their groups exactly.

    Feed it blocks of rows in order.
    """

    size: int
    batch_size: int
    shards: list[Shard]
    counts: dict[tuple[int, int], int]
    row: int = 0
    key: int = 0

    @classmethod
    def of(cls, size: int, batch_size: int) -> Cutter:
        """A cutter at the start of the manifest."""
        return cls(size, batch_size, [], {})

    def feed(self, rows: Shapes) -> None:
        """The next rows."""
        ends = self.key + np.cumsum(rows.images)
        begins, last = ends - rows.images, int(ends[-1])
        cuts = np.arange(-(-self.key // self.size) * self.size, last, self.size)
        cut_rows = np.searchsorted(ends, cuts, side="right")
        skips = cuts - begins[cut_rows]
        for cut, row, skip in zip(cuts.tolist(), cut_rows.tolist(), skips.tolist(), strict=True):
            self.shards.append(Shard(cut, 0, self.row + row, skip))
        inside = skips > 0
        after = cut_rows[inside] + 1
        pieces = np.insert(np.arange(len(begins)), after, cut_rows[inside])
        self._count_groups(rows, pieces, np.insert(begins, after, cuts[inside]), last)
        self.row, self.key = self.row + len(begins), last

    def _count_groups(self, rows: Shapes, pieces: Ints, starts: Ints, last: int) -> None:
        """Counts pieces, not pictures: a row may have 100,000. A piece is a row's part in one shard; `starts` are their first keys."""
        shape = ((rows.width * _RADIX + rows.height) * _RADIX + rows.steps) * 2 + rows.has_negative
        distinct, code = np.unique(shape, return_inverse=True)
        first = self.key // self.size
        places = (starts // self.size - first) * len(distinct) + code[pieces]
        counts = np.bincount(places, weights=np.diff(starts, append=last))  # floats are exact up to 2**53
        for place in np.flatnonzero(counts).tolist():
            shard, which = divmod(place, len(distinct))
            key = (first + shard, int(distinct[which]))
            self.counts[key] = self.counts.get(key, 0) + int(counts[place])

    def finish(self) -> tuple[tuple[Shard, ...], int]:
        """All shards, and how many groups they have."""
        ends = [shard.first_key for shard in self.shards[1:]] + [self.key]
        shards = tuple(shard._replace(pictures=end - shard.first_key) for shard, end in zip(self.shards, ends, strict=True))
        return shards, sum(-(-count // self.batch_size) for count in self.counts.values())


def estimate(shapes: Sequence[Shape], job: Job, checkpoint: Checkpoint | None) -> Estimate:
    """What a picture of this run costs, from the model's arithmetic and a typical device; to be judged, not believed."""
    pictures = sum(shape.pictures for shape in shapes)
    per_pixel = BYTES_PER_PIXEL["lossless" if job.output.format == "webp" and job.output.lossless else job.output.format]
    size = sum(shape.pictures * (shape.width * shape.height * per_pixel + SAMPLE_OVERHEAD) for shape in shapes)
    if checkpoint is None:
        return Estimate(job.pattern.delay_s / job.engine.batch_size + CARD_SECONDS, size / pictures, "test cards")
    tokens = job.model.max_sequence_length
    flops = sum(s.pictures * checkpoint.flops(s.width, s.height, s.steps, tokens, s.negative) for s in shapes)
    if job.engine.device == "cuda" or (job.engine.device == "auto" and checkpoint.folder != TINY):
        return Estimate(
            flops / pictures / GPU_FLOPS, size / pictures, f"a GPU that does {GPU_FLOPS / 1e12:.0f} TFLOP/s, as an H200 does on FLUX.1"
        )
    return Estimate(flops / pictures / CPU_FLOPS, size / pictures, f"a CPU core that does {CPU_FLOPS / 1e9:.0f} GFLOP/s")


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Hash of everything that decides pictures, tar files and their names."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def identify(job: Job, manifest: Sequence[str], model: Mapping[str, str]) -> dict[str, Any]:
    """What the fingerprint covers: the job without operations, and the content (not the place) of manifest, weights and LoRAs."""
    settings = job.identity()
    del settings["model"]["path"], settings["model"]["revision"], settings["cache"]["trace"]
    settings["model"]["lora"] = [lora["scale"] for lora in settings["model"]["lora"]]
    return {**settings, "weights": dict(model), "manifest": list(manifest)}


def difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines `key: old → new` for everything that differs, nested keys joined by dots."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += difference(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {_short(before)} → {_short(after)}")
    return lines


def refuse_change(plan: Plan, identity: Mapping[str, Any], where: str) -> None:
    """Check that a run is still what it was planned to be.

    :raises PlanChanged: it is not; the message lists every difference.
    """
    lines = difference(plan.identity, json.loads(json.dumps(identity)))
    if lines:
        raise PlanChanged(
            f"{where} was planned from other inputs, and a run never changes:\n  "
            + "\n  ".join(lines)
            + "\nPut the inputs back and resume, or start another run with --out ANOTHER_FOLDER."
        )


def software() -> dict[str, str]:
    """Versions of everything that can change a byte of the output."""
    return {"python": platform.python_version()} | {package: importlib.metadata.version(package) for package in PACKAGES}


def now() -> str:
    """The time, for people."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
