"""Schedules are found: one run records velocities, and another one tries candidates.

recorded/   pictures that the sample does not have, without a cache; their velocities are recorded
searched/   some of them with every candidate of `search.py`: a row each, by policy = "replay"

Both are ordinary runs, killed and continued like any other. What is found depends on their records
and pictures alone, so that whoever continues finds the same. Every schedule then makes the sample,
which had no part in finding it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    candidates,
    usual_errors,
)
from batchgen.calibration.trials import Grid, Trial, keep_table, read_table, with_cache
from batchgen.engine.cache.policy import COMPUTED, SKIPPED
from batchgen.fidelity import psnr
from batchgen.run import inspect_run
from batchgen.settings import Cache, ClassSchedule, Job, PictureClass
from batchgen.shard import published_shards, read_metadata
from batchgen.view.status import Status

# Shares of the steps to compute, from careful to bold: 10, 7, 6, 5 and 4 of 28.
SHARES = (0.36, 0.25, 0.21, 0.18, 0.14)
# Candidates of each class and number of computed steps; and pictures that try them: so many
# together, and of each class at least.
CANDIDATES, TRIED, TRIED_OF_CLASS = 4, 12, 3
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


@dataclass(frozen=True)
class Search:
    """The search for schedules of one calibration."""

    root: Path
    # Located.
    job: Job
    # The sample; and the pictures to find schedules from, a row each.
    sample: pa.Table
    others: pa.Table
    # Of the steps to compute, from careful to bold.
    shares: Sequence[float] = SHARES

    def run(self, make: Make) -> Found:
        """Make the runs, or continue, and find the schedules.

        :param make: makes a trial, or submits it.
        """
        if not self.shares:
            return Found()
        keep_table(self.root, RECORDED, self.others)
        recorded = self._trial(RECORDED, Cache(record=True))
        if not make(recorded).finished:
            return Found(waiting=recorded)
        known = read_recorded(recorded)
        searched = self._searched(known)
        if searched and not make(searched).finished:
            return Found(waiting=searched)
        return Found(self._families(known, best_tried(searched, recorded) if searched else {}))

    def _trial(self, name: str, cache: Cache) -> Trial:
        return Trial(name, self.root / name, with_cache(self.job, cache), f"{name}.parquet")

    def _searched(self, known: Mapping[PictureClass, Recorded]) -> Trial | None:
        """The run that tries the candidates, once its manifest is written; None without any."""
        if not (self.root / f"{SEARCHED}.parquet").exists():
            rows = list(self._tries(known))
            if not rows:
                return None
            keep_table(self.root, SEARCHED, pa.Table.from_pylist(rows))
        traces = read_table(self.root, SEARCHED)["trace"].to_pylist()
        path = (self.root / f"{SEARCHED}.json").absolute()
        durable.create(path, json.dumps(dict(enumerate(traces))).encode())
        return self._trial(SEARCHED, Cache(policy="replay", trace=str(path), blocks=0))

    def _tries(self, known: Mapping[PictureClass, Recorded]) -> Iterator[dict[str, Any]]:
        """Rows of pictures that are to be made with a candidate, and which one: `trace`."""
        few = max(TRIED_OF_CLASS, TRIED // max(len(known), 1))
        rows = self.others.to_pylist()
        for kind, recorded in known.items():
            budgets = sorted({count(share, kind) for share in self.shares} - {0})
            found = candidates(Segments(recorded), budgets, CANDIDATES) if budgets else {}
            for key in recorded.keys[:few]:
                for one in (one for some in found.values() for one in some):
                    yield {**rows[key], "of_key": key, "trace": trace_of(one, kind.steps)}

    def _families(
        self, known: Mapping[PictureClass, Recorded], best: Mapping[tuple[PictureClass, int], Steps]
    ) -> Grid:
        kinds = sorted({class_of(row) for row in self.sample.to_pylist()})
        tried: dict[Classes, float] = {}
        for share in self.shares:
            classes = tuple(
                _schedule(kind, best.get((kind, count(share, kind))), known.get(kind))
                for kind in kinds
            )
            if any(one.skipped for one in classes):
                tried.setdefault(classes, share)
        return [self._family(policy, tried) for policy in POLICIES] if tried else []

    def _family(
        self, policy: Literal["schedule", "multistep"], tried: Mapping[Classes, float]
    ) -> list[Trial]:
        trials = []
        for classes, share in tried.items():
            name = f"{POLICIES[policy]}-{share:g}"
            cache = Cache(policy=policy, classes=classes)
            trials.append(Trial(name, self.root / name, with_cache(self.job, cache)))
        return trials


def count(share: float, kind: PictureClass) -> int:
    """How many steps a class computes at a share; 0 where no schedule is searched."""
    if not 3 <= kind.steps <= MOST_STEPS:
        return 0
    return min(max(round(share * kind.steps), 2), kind.steps)


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
        if kind.steps <= MOST_STEPS:
            pictures = [_gram(row["products"], kind.steps) for row in some]
            sigmas = tuple(some[0]["products"][: kind.steps + 1])
            found[kind] = Recorded(sigmas, np.stack(pictures), tuple(row["key"] for row in some))
    return found


def _records(trial: Trial) -> list[dict[str, Any]]:
    columns = ["key", "width", "height", "steps", "negative_prompt", "products"]
    directory = inspect_run(trial.root).directory
    rows = [
        row
        for shard in sorted(published_shards(directory))
        for row in read_metadata(directory.metadata(shard), columns).to_pylist()
    ]
    return sorted(rows, key=lambda row: int(row["key"]))


def _gram(numbers: Sequence[float], steps: int) -> Floats:
    """The inner products [N, N] of what was recorded."""
    lower = np.zeros((steps, steps))
    lower[np.tril_indices(steps)] = numbers[steps + 1 :]
    gram: Floats = lower + np.tril(lower, -1).T
    return gram


def best_tried(searched: Trial, recorded: Trial) -> dict[tuple[PictureClass, int], Steps]:
    """Of each class and number of computed steps the candidate with the highest mean PSNR.

    Against the pictures without a cache. A candidate that could not be made is out.
    """
    plain = dict(image_files(inspect_run(recorded.root).directory))
    made = dict(image_files(inspect_run(searched.root).directory))
    decibels: dict[tuple[PictureClass, int], dict[Steps, list[float]]] = {}
    for key, row in enumerate(read_table(searched.root.parent, SEARCHED).to_pylist()):
        computed = tuple(at for at, letter in enumerate(row["trace"]) if letter == COMPUTED)
        equal = key in made and row["of_key"] in plain
        one = psnr(pixels_of(made[key]), pixels_of(plain[row["of_key"]])) if equal else 0.0
        tried = decibels.setdefault((class_of(row), len(computed)), {})
        tried.setdefault(computed, []).append(one)
    return {
        place: max(tried, key=lambda steps: float(np.mean(tried[steps])))
        for place, tried in decibels.items()
    }


def _schedule(
    kind: PictureClass, computed: Steps | None, recorded: Recorded | None
) -> ClassSchedule:
    """The schedule of a class; one that computes every step where none was found."""
    if computed is None or recorded is None:
        every = tuple(range(kind.steps))
        return ClassSchedule(**kind._asdict(), computed=every, errors=(1.0,) * (kind.steps - 1))
    errors = usual_errors(recorded, computed)
    return ClassSchedule(**kind._asdict(), computed=computed, errors=errors)
