"""Schedules are found: sums against the engine's own loop, the search against every possibility."""

from itertools import combinations

import numpy as np
import pytest
import torch

from batchgen.calibration.search import (
    CORRECTED,
    Recorded,
    Segments,
    _weights,
    best_schedules,
    candidates,
    largest,
    neighbours,
    usual_errors,
)
from batchgen.engine.cache import make_policy
from batchgen.engine.cache.velocities import Velocities
from batchgen.settings.job import Cache
from tests.support.specimens import picture

N = 9
SIGMAS = tuple((1 - step / N) ** 0.7 for step in range(N + 1))


def velocities(count: int = 1, sigmas: tuple[float, ...] = SIGMAS) -> torch.Tensor:
    """Velocities of some pictures that nothing describes, [count, steps, 5]."""
    shape = count, len(sigmas) - 1, 5
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def recorded(values: torch.Tensor, sigmas: tuple[float, ...] = SIGMAS) -> Recorded:
    return Recorded(sigmas, (values @ values.mT / values.shape[-1]).numpy())


def run_through_the_cache(values: torch.Tensor, computed: tuple[int, ...]):  # type: ignore[no-untyped-def]
    """What a picture's latents are short of, and its errors, if only some steps are computed."""
    skip = sorted({*range(N)} - {*computed})
    policy = make_policy(Cache(policy="schedule", skip=skip), "flux", 6)
    latents = torch.zeros(1, 1, values.shape[-1], dtype=torch.float64)
    its, plain = Velocities(policy, [picture()], latents, SIGMAS), latents
    for step in range(N):
        true, change = values[:, step, None], SIGMAS[step + 1] - SIGMAS[step]
        latents, along = its.step(step, latents, list, lambda _, true=true: true)
        latents, plain = latents + change * along, plain + change * true
    (trace,) = its.traces()
    return plain - latents, [one for one in trace.distances if one is not None]


@pytest.mark.parametrize("computed", [(0,), (0, 4), (0, 2, 3, 7), (0, 3, 8), tuple(range(N - 1))])
def test_the_weights_of_a_schedules_segments_are_what_the_engine_does(
    computed: tuple[int, ...],
) -> None:
    values, marks = velocities(), (-1, *computed, N)
    left, _ = _weights(SIGMAS)
    segments = zip(marks, marks[1:], marks[2:], strict=False)
    weights = torch.tensor(np.sum([left[segment] for segment in segments], axis=0))
    short, errors = run_through_the_cache(values, computed)
    assert torch.allclose(weights @ values[0], short.flatten(), atol=1e-5)  # the engine's are fp32
    assert usual_errors(recorded(values), computed) == pytest.approx(errors, rel=1e-4)


@pytest.mark.parametrize("share", CORRECTED)
def test_no_other_steps_have_a_smaller_largest_segment(share: float) -> None:
    costs = Segments(recorded(velocities(3))).costs(share)
    best = best_schedules(costs, N, N)
    assert sorted(best) == list(range(1, N + 1))
    for count, found in best.items():
        assert len(found) == count
        every = [(0, *others) for others in combinations(range(1, N), count - 1)]
        assert largest(costs, found, N) == min(largest(costs, one, N) for one in every)


def test_a_planted_schedule_is_found() -> None:
    """Its segments are a line, a parabola and a line; any other needs what no polynomial has."""
    sigmas = tuple(1 - step / 12 for step in range(13))
    s, a, b = np.array(sigmas[:-1]), sigmas[5], sigmas[9]
    line = 2.0 - 3.0 * s
    bend = np.where(s < a, 40.0 * (s - 1.0) * (s - a), 0.0)  # on the parabola through 0, 5 and 9
    (at_b,) = bend[s == b]
    slope = at_b / (b - a)
    course = line + np.where(s < b, at_b + slope * (s - b), bend)
    values = torch.tensor(course)[None, :, None] * torch.ones(1, 1, 4, dtype=torch.float64)
    segments = Segments(recorded(values, sigmas))
    assert best_schedules(segments.costs(0.0), 12, 3)[3] == (0, 5, 9)
    assert largest(segments.costs(0.0), (0, 5, 9), 12) == pytest.approx(0, abs=1e-6)


def test_candidates_begin_with_the_best_and_their_neighbours_move_one_step_by_one() -> None:
    segments = Segments(recorded(velocities(2)))
    found = candidates(segments, [3, 5], 4)
    assert sorted(found) == [3, 5]
    for budget, some in found.items():
        best = [best_schedules(segments.costs(share), N, budget)[budget] for share in CORRECTED]
        assert some[: len(set(best))] == list(dict.fromkeys(best))
        beside = {other for one in best for other in neighbours(one, N)} - set(best)
        assert len(set(some)) == len(some) == min(4, len({*best, *beside}))
        assert set(some) - set(best) <= beside
    assert neighbours((0, 1, 8), 9) == [(0, 2, 8), (0, 1, 7)]
