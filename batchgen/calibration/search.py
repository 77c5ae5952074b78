"""Which steps the pictures of a class should compute: found from their velocities' inner products.

A *segment* is what lies between two computed steps, or behind the last one. Its error is what its
skipped steps did to the latents and should not have done: for each, the step in sigma times the
velocity, minus the prediction, minus the correction that follows; weights of velocities, which
`engine/cache/trajectory.py` gives. They depend on the segment and on the computed step before it.
With the Gram matrix G of a picture's velocities the size of the error is √(w·G·w).

Dynamic programming finds the steps whose largest segment, in the mean over pictures, is smallest.
LeMiCa (https://arxiv.org/abs/2511.00090) minimises the largest too, and not the sum.

These errors take the velocities of the uncached picture. A picture made with skipped steps has
others: the step that ends a segment is computed from latents that are not corrected yet. A second
cost therefore adds a share of what is corrected. Which cost is nearer to the truth depends on the
model and on guidance; so both give candidates, with their neighbours, and pictures decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest

import numpy as np
import numpy.typing as npt

from batchgen.engine.cache.trajectory import Trajectory

Floats = npt.NDArray[np.float64]
# The share of what is corrected that counts, in each cost. With 0.4 the schedules of the embedded
# model at 128×128 px were best at 4 to 8 of 28 steps; with guidance they were best with 0.
CORRECTED = (0.0, 0.4)
# As in `make_policy`, by default.
ORDER = 1
# Schedules of pictures with more steps are not searched: there are too many segments.
MOST_STEPS = 64
# The share of the pictures whose errors are usual.
USUAL = 0.9

# The computed step before a segment (-1: none), the one at its begin, and the one that ends it (or
# the number of steps).
Segment = tuple[int, int, int]
Steps = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was recorded of pictures of one class: P pictures, N steps."""

    # [N + 1], falling.
    sigmas: tuple[float, ...]
    # Inner products of the velocities, [P, N, N].
    products: Floats
    # The pictures' keys, [P].
    keys: tuple[int, ...] = ()

    @property
    def steps(self) -> int:
        """N."""
        return len(self.sigmas) - 1


class Segments:
    """The sizes of the errors of all segments, mean over pictures."""

    def __init__(self, recorded: Recorded) -> None:
        self.steps = recorded.steps
        left, corrected = _weights(recorded.sigmas)
        self._names = list(left)
        self._left = _mean_sizes(list(left.values()), recorded.products)
        self._corrected = _mean_sizes(list(corrected.values()), recorded.products)

    def costs(self, corrected: float) -> dict[Segment, float]:
        """Of each segment: the error that is left, plus a share of what is corrected."""
        costs = self._left + corrected * self._corrected
        return dict(zip(self._names, costs.tolist(), strict=True))


def best_schedules(costs: Mapping[Segment, float], steps: int, most: int) -> dict[int, Steps]:
    """For each number of computed steps up to `most`: those whose largest segment is smallest.

    Among the prefixes of equal largest segments the one with the smaller sum goes on.

    :param costs: of every segment of `steps` steps.
    """
    # (step before, step) → largest segment so far, their sum, and the computed steps.
    best: dict[tuple[int, int], tuple[float, float, Steps]] = {(-1, 0): (0.0, 0.0, (0,))}
    found: dict[int, Steps] = {}
    for computed in range(1, most + 1):
        ends = [
            (max(largest, costs[*pair, steps]), total + costs[*pair, steps], path)
            for pair, (largest, total, path) in best.items()
        ]
        found[computed] = min(ends)[2]
        longer: dict[tuple[int, int], tuple[float, float, Steps]] = {}
        for (before, last), (largest, total, path) in best.items():
            for step in range(last + 1, steps):
                cost = costs[before, last, step]
                one = max(largest, cost), total + cost, (*path, step)
                if (last, step) not in longer or one < longer[last, step]:
                    longer[last, step] = one
        if not longer:
            break
        best = longer
    return found


def candidates(segments: Segments, budgets: Sequence[int], most: int) -> dict[int, list[Steps]]:
    """Schedules of each number of computed steps that are worth trying, the likeliest first.

    They are the best ones by each cost; then, of each in turn, those with one step moved by one.

    :param most: how many of each.
    """
    steps, every = segments.steps, [segments.costs(share) for share in CORRECTED]
    best = [best_schedules(costs, steps, max(budgets)) for costs in every]
    found = {}
    for budget in budgets:
        starts = [one[budget] for one in best]
        moved = [_moved(*one, steps) for one in zip(starts, every, strict=True)]
        in_turn = [one for some in zip_longest(*moved) for one in some if one]
        found[budget] = list(dict.fromkeys([*starts, *in_turn]))[:most]
    return found


def largest(costs: Mapping[Segment, float], computed: Steps, steps: int) -> float:
    """The largest segment of a schedule."""
    marks = (-1, *computed, steps)
    return max(costs[marks[i - 1], marks[i], marks[i + 1]] for i in range(1, len(marks) - 1))


def _moved(start: Steps, costs: Mapping[Segment, float], steps: int) -> list[Steps]:
    """The neighbours of a schedule, those with the smallest largest segments first."""
    return sorted(neighbours(start, steps), key=lambda one: (largest(costs, one, steps), one))


def neighbours(computed: Steps, steps: int) -> list[Steps]:
    """The schedules in which one step but the first is moved by one."""
    moved = []
    for place in range(1, len(computed)):
        for shift in (-1, 1):
            one = (*computed[:place], computed[place] + shift, *computed[place + 1 :])
            if all(a < b for a, b in pairwise((*one, steps))):
                moved.append(one)
    return moved


def usual_errors(recorded: Recorded, computed: Steps) -> tuple[float, ...]:
    """How far the predictions of the computed steps are off for most pictures.

    :return: root mean squares, one for each computed step but the first; a `USUAL` share of the
        pictures have less.
    """
    trajectory, known, errors = Trajectory(ORDER, recorded.sigmas), list[int](), []
    for step in computed:
        if known:
            weights = np.zeros(recorded.steps)
            weights[step] = 1.0
            for other, weight in zip(known, trajectory.predict(step), strict=False):
                weights[other] -= weight
            sizes = _sizes([weights], recorded.products)[:, 0]
            errors.append(max(float(np.quantile(sizes, USUAL)), 1e-9))
        trajectory.compute(step)
        known.insert(0, step)
    return tuple(round(error, 6) or 1e-6 for error in errors)


def _weights(sigmas: Sequence[float]) -> tuple[dict[Segment, Floats], dict[Segment, Floats]]:
    """Of every segment the weights of the velocities in its error, and in what is corrected."""
    steps = len(sigmas) - 1
    left, corrected = {}, {}
    for begin in range(steps):
        for before in range(begin) if begin else (-1,):
            known = [begin] if before < 0 else [begin, before]
            trajectory = Trajectory(ORDER, sigmas)
            for step in reversed(known):
                trajectory.compute(step)
            taken = np.zeros(steps)  # by the steps skipped so far, too much
            for end in range(begin + 1, steps + 1):
                segment = before, begin, end
                left[segment], corrected[segment] = taken, np.zeros(steps)
                if end < steps:
                    correction = np.zeros(steps)
                    correction[[end, *known]] = trajectory.correct(end)[: len(known) + 1]
                    left[segment], corrected[segment] = taken - correction, taken
                    trajectory.skip(end)
                    change = sigmas[end + 1] - sigmas[end]
                    taken = taken.copy()
                    taken[end] += change
                    taken[known] -= change * np.array(trajectory.predict(end)[: len(known)])
    return left, corrected


def _mean_sizes(weights: Sequence[Floats], products: Floats) -> Floats:
    return np.concatenate(
        [
            _sizes(weights[at : at + 1000], products).mean(axis=0)
            for at in range(0, len(weights), 1000)
        ]
    )


def _sizes(weights: Sequence[Floats], products: Floats) -> Floats:
    """The size of each weighted sum of each picture's velocities, [P, as many as weights]."""
    sums = np.stack(weights)
    squares = np.stack([np.sum((sums @ gram) * sums, axis=1) for gram in products])
    sizes: Floats = np.sqrt(np.maximum(squares, 0.0))
    return sizes
