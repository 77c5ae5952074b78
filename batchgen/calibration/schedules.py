"""Schedules are found: one run records velocities, and another one tries candidates.

recorded/     pictures that the sample does not have, without a cache; velocities are recorded
searched-…/   some of them with every candidate of `search.py`: a row each, by policy = "replay"

Both are ordinary runs, killed and continued like any other. What is found depends on their records
and pictures alone, so that whoever continues finds the same. Every schedule then makes the sample,
which had no part in finding it.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from batchgen import durable
from batchgen.calibration.compare import image_files, pixels_of
from batchgen.calibration.sample import class_of
from batchgen.calibration.search import (
    MOST_STEPS,
    Floats,
    Recorded,
    Segments,
    Steps,
    best_schedules,
    candidates,
    largest,
    usual_errors,
)
from batchgen.calibration.trials import Grid, Trial, keep_table, with_cache
from batchgen.engine.cache.policy import COMPUTED, SKIPPED
from batchgen.fidelity import psnr
from batchgen.run import inspect_run
from batchgen.settings import Cache, ClassSchedule, Job, PictureClass
from batchgen.shard import published_shards, read_metadata
from batchgen.view.status import Status

# Shares of the steps that the easiest class computes, from careful to bold: 8, 7, 6, 5, 4 of 28.
SHARES = (0.29, 0.25, 0.21, 0.18, 0.14)
# With fewer steps there is nothing to skip.
LEAST_STEPS = 3
# Candidates of each class and number of computed steps; and pictures that try them: so many
# together, and of each class at least.
CANDIDATES, TRIED, TRIED_OF_CLASS = 6, 12, 3
RECORDED, SEARCHED = "recorded", "searched"

# The policies that take schedules, and how their settings are named.
POLICIES: dict[Literal["schedule", "multistep"], str] = {
    "schedule": "schedule",
    "multistep": "multistep+schedule",
}
Classes = tuple[ClassSchedule, ...]
Make = Callable[[Trial], Status]


@dataclass(frozen=True, slots=True)
class Found:
    """Settings with schedules, or the run that must be made before they are known."""

    # A list of schedules and a list of multistep from them, from careful to bold.
    families: Grid = ()
    waiting: Trial | None = None
    # For which pictures none were searched, and why; "" if for all.
    note: str = ""


@dataclass(frozen=True)
class Search:
    """The search for schedules of one calibration."""

    root: Path
    # Located.
    job: Job
    # The sample; and the pictures to find schedules from, a row each.
    sample: pa.Table
    others: pa.Table
    # Of the steps, how many the easiest class computes; from careful to bold.
    shares: Sequence[float] = SHARES

    def run(self, make: Make) -> Found:
        """Make the runs, or continue, and find the schedules.

        :param make: makes a trial, or submits it.
        """
        if not self.shares:
            return Found()
        kinds = {class_of(row) for row in self.others.to_pylist()}
        note = _unsearched(kinds)
        if not any(map(is_searched, kinds)):
            return Found(note=note)
        keep_table(self.root, RECORDED, self.others)
        recorded = self._trial(RECORDED, Cache(record=True))
        if not make(recorded).finished:
            return Found(waiting=recorded, note=note)
        known = {kind: Known.of(one) for kind, one in read_recorded(recorded).items()}
        if not known:
            return Found(note=f"No schedules: no picture of {recorded.root} was made.")
        counts = {share: counts_of(share, known) for share in self.shares}
        tries = pa.Table.from_pylist(list(self._tries(known, counts.values())))
        searched = self._searched(tries)
        if not make(searched).finished:
            return Found(waiting=searched, note=note)
        best = best_tried(tries, searched, recorded)
        return Found(self._families(known, counts, best), note=note)

    def _trial(self, name: str, cache: Cache) -> Trial:
        return Trial(name, self.root / name, with_cache(self.job, cache), f"{name}.parquet")

    def _searched(self, tries: pa.Table) -> Trial:
        """The run that tries candidates. Other candidates are another run."""
        traces = dict(enumerate(tries["trace"].to_pylist()))
        text = json.dumps([traces, tries["of_key"].to_pylist()])
        name = f"{SEARCHED}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        keep_table(self.root, name, tries)
        path = (self.root / f"{name}.json").absolute()
        durable.create(path, json.dumps(traces).encode())
        return self._trial(name, Cache(policy="replay", trace=str(path), blocks=0))

    def _tries(
        self, known: Mapping[PictureClass, Known], counts: Iterable[Mapping[PictureClass, int]]
    ) -> Iterator[dict[str, Any]]:
        """Rows of pictures that are to be made with a candidate, and which one: `trace`."""
        few = max(TRIED_OF_CLASS, TRIED // len(known))
        rows, every = self.others.to_pylist(), list(counts)
        for kind, its in known.items():
            budgets = sorted({one[kind] for one in every})
            found = candidates(its.segments, budgets, CANDIDATES)
            for key in its.recorded.keys[:few]:
                for one in (one for some in found.values() for one in some):
                    yield {**rows[key], "of_key": key, "trace": trace_of(one, kind.steps)}

    def _families(
        self,
        known: Mapping[PictureClass, Known],
        counts: Mapping[float, Mapping[PictureClass, int]],
        best: Mapping[tuple[PictureClass, int], Steps],
    ) -> Grid:
        kinds = sorted({class_of(row) for row in self.sample.to_pylist()})
        tried: dict[Classes, float] = {}
        for share, its in counts.items():
            classes = tuple(
                _schedule(kind, best[kind, its[kind]], known[kind].recorded)
                if kind in known
                else _every_step(kind)
                for kind in kinds
            )
            tried.setdefault(classes, share)
        return [self._family(policy, tried) for policy in POLICIES]

    def _family(
        self, policy: Literal["schedule", "multistep"], tried: Mapping[Classes, float]
    ) -> list[Trial]:
        trials = []
        for classes, share in tried.items():
            name = f"{POLICIES[policy]}-{share!r}"
            cache = Cache(policy=policy, classes=classes)
            trials.append(Trial(name, self.root / name, with_cache(self.job, cache)))
        return trials


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a class."""

    recorded: Recorded
    segments: Segments
    # Of 1, 2, … computed steps: the largest segment of the best ones.
    largest: tuple[float, ...]

    @classmethod
    def of(cls, recorded: Recorded) -> Known:
        """By what was recorded."""
        segments, steps = Segments(recorded), recorded.steps
        costs = segments.costs(0.0)
        best = best_schedules(costs, steps, steps)
        sizes = tuple(largest(costs, best[count], steps) for count in range(1, steps + 1))
        return cls(recorded, segments, sizes)


def counts_of(share: float, known: Mapping[PictureClass, Known]) -> dict[PictureClass, int]:
    """How many steps each class computes so that all err about alike.

    The easiest class computes this share of its steps, and two at least. Others compute more: with
    classifier-free guidance the embedded model needs twice as many.
    """
    least = {kind: max(round(share * kind.steps), 2) for kind in known}
    level = min(its.largest[least[kind] - 1] for kind, its in known.items()) * (1 + 1e-9)
    return {
        kind: next((n for n in range(2, kind.steps) if its.largest[n - 1] <= level), kind.steps)
        for kind, its in known.items()
    }


def is_searched(kind: PictureClass) -> bool:
    """Whether schedules of a class are searched."""
    return LEAST_STEPS <= kind.steps <= MOST_STEPS


def _unsearched(kinds: Iterable[PictureClass]) -> str:
    """For which classes no schedules are searched, in a sentence; "" if for none."""
    without = "; ".join(str(kind) for kind in sorted(kinds) if not is_searched(kind))
    range_ = f"they are for pictures of {LEAST_STEPS} to {MOST_STEPS} steps"
    return f"No schedules are searched for {without}: {range_}." if without else ""


def trace_of(computed: Steps, steps: int) -> str:
    """A schedule as `policy = "replay"` reads it."""
    return "".join(COMPUTED if step in computed else SKIPPED for step in range(steps))


def read_recorded(trial: Trial) -> dict[PictureClass, Recorded]:
    """What the recording run has recorded, by class.

    Pictures of a class may differ a little in size, and so in their sigmas. Those of the first
    picture are taken for all.
    """
    rows: dict[PictureClass, list[dict[str, Any]]] = defaultdict(list)
    for row in _records(trial):
        if row["products"] is not None:
            rows[class_of(row)].append(row)
    found = {}
    for kind, some in sorted(rows.items()):
        if is_searched(kind):
            pictures = [_gram(row["products"], kind.steps) for row in some]
            sigmas = tuple(some[0]["products"][: kind.steps + 1])
            found[kind] = Recorded(sigmas, np.stack(pictures), tuple(row["index"] for row in some))
    return found


def _records(trial: Trial) -> list[dict[str, Any]]:
    columns = ["index", "width", "height", "steps", "negative_prompt", "products"]
    directory = inspect_run(trial.root).directory
    rows = [
        row
        for shard in sorted(published_shards(directory))
        for row in read_metadata(directory.metadata(shard), columns).to_pylist()
    ]
    return sorted(rows, key=lambda row: int(row["index"]))


def _gram(numbers: Sequence[float], steps: int) -> Floats:
    """The inner products [N, N] of what was recorded."""
    lower = np.zeros((steps, steps))
    lower[np.tril_indices(steps)] = numbers[steps + 1 :]
    gram: Floats = lower + np.tril(lower, -1).T
    return gram


def best_tried(
    tries: pa.Table, searched: Trial, recorded: Trial
) -> dict[tuple[PictureClass, int], Steps]:
    """Of each class and number of computed steps the candidate with the highest mean PSNR.

    Against the pictures without a cache. Of a picture that could not be made it is 0 dB.

    :param tries: the rows that were searched.
    """
    plain = dict(image_files(inspect_run(recorded.root).directory))
    made = dict(image_files(inspect_run(searched.root).directory))
    decibels: dict[tuple[PictureClass, int], dict[Steps, list[float]]] = {}
    for key, row in enumerate(tries.to_pylist()):
        computed = tuple(at for at, letter in enumerate(row["trace"]) if letter == COMPUTED)
        there = key in made and row["of_key"] in plain
        one = psnr(pixels_of(made[key]), pixels_of(plain[row["of_key"]])) if there else 0.0
        tried = decibels.setdefault((class_of(row), len(computed)), {})
        tried.setdefault(computed, []).append(one)
    return {
        place: max(tried, key=lambda steps: float(np.mean(tried[steps])))
        for place, tried in decibels.items()
    }


def _schedule(kind: PictureClass, computed: Steps, recorded: Recorded) -> ClassSchedule:
    errors = usual_errors(recorded, computed)
    return ClassSchedule(**kind._asdict(), computed=computed, errors=errors)


def _every_step(kind: PictureClass) -> ClassSchedule:
    """Of a class of which nothing is known."""
    every = tuple(range(kind.steps))
    return ClassSchedule(**kind._asdict(), computed=every, errors=(1.0,) * (kind.steps - 1))
