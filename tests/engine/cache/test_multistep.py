"""Steps by each picture's own error: sums against closed forms, and the embedded model."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from batchgen.engine.build import build_engine
from batchgen.engine.cache import make_policy
from batchgen.engine.cache.multistep import FIRST, Multistep
from batchgen.engine.cache.velocities import Velocities
from batchgen.errors import JobError
from batchgen.fidelity import psnr as decibels
from batchgen.model.checkpoint import resolve
from batchgen.settings.job import Cache, load_job, parse_job
from benchmarks.held_out import held_out
from tests.support.stock import make_job, psnr

SIGMAS = torch.linspace(1, 0, 29).square().tolist()  # 28 steps, unevenly spaced
SQUARE = ((128, 128),)


def multistep(tolerance):
    return make_policy(Cache(policy="multistep", tolerance=tolerance), "flux", 6)


def integrate(velocity, tolerance, sigmas=SIGMAS):
    """The latents after all steps of a known velocity (sigma → number), and the traces."""
    latents = torch.zeros(1, 2, 3)
    its = Velocities(multistep(tolerance), [0], latents, sigmas)
    for step, sigma in enumerate(sigmas[:-1]):

        def compute(chosen, sigma=sigma):
            return torch.full((len(chosen.numbers), 2, 3), velocity(sigma))

        latents, along = its.step(step, latents, list, compute)
        latents = latents + (sigmas[step + 1] - sigma) * along
    return latents, its.traces()


def euler(velocity, sigmas=SIGMAS):
    return sum((after - sigma) * velocity(sigma) for sigma, after in pairwise(sigmas))


@pytest.mark.parametrize(
    "velocity",
    [lambda s: 2.0, lambda s: 2 - 3 * s, lambda s: 1 - 2 * s + 4 * s * s],
    ids=["constant", "line", "parabola"],
)
def test_what_a_parabola_describes_is_integrated_exactly_however_few_steps_are_computed(velocity):
    """Only the stretch after the first step, where two points are known, knows no parabola."""
    latents, (trace,) = integrate(velocity, 1.0)
    assert trace.skipped.count("0") < 10
    first = SIGMAS[: trace.skipped.index("0", 1) + 1]

    def as_line(sigma):
        share = (first[0] - sigma) / (first[0] - first[-1])
        return velocity(first[0]) + share * (velocity(first[-1]) - velocity(first[0]))

    lacking = euler(as_line, first) - euler(velocity, first)
    assert latents.flatten().tolist() == pytest.approx([euler(velocity) + lacking] * 6, abs=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 6, 28])
@pytest.mark.parametrize("tolerance", [1e-9, 0.01, 1e9])
def test_first_and_last_step_are_computed_whatever_the_tolerance(steps, tolerance):
    sigmas = torch.linspace(1, 0, steps + 1).tolist()
    _, (trace,) = integrate(lambda s: math.sin(9 * s) + 2, tolerance, sigmas=sigmas)
    assert len(trace.skipped) == len(trace.distances) == steps
    assert trace.skipped[0] == trace.skipped[-1] == "0"
    known = [error is not None for error in trace.distances]
    assert known == [step > 0 and letter == "0" for step, letter in enumerate(trace.skipped)]


def test_a_smaller_tolerance_computes_more_and_is_nearer():
    def velocity(sigma):  # a line as long as two points are known
        return 2 - sigma + 50 * max(0.65 - sigma, 0) ** 3

    results = [integrate(velocity, tolerance) for tolerance in (1, 1e-1, 1e-2, 1e-4)]
    computed = [trace.skipped.count("0") for _, (trace,) in results]
    off = [abs(latents[0, 0, 0].item() - euler(velocity)) for latents, _ in results]
    assert computed == sorted(set(computed))
    assert off == sorted(off, reverse=True)


def computed_steps(tolerance, sigmas, second, error):
    """The steps that a picture computes whose second one is given, and whose errors a function
    tells.
    """
    decider, computed = Multistep(tolerance, sigmas), []
    for step in range(len(sigmas) - 1):
        if not decider.before(step, math.nan):
            size = FIRST / (sigmas[0] - sigmas[second]) ** 2
            decider.after(step, error(step) if step else size)
            computed.append(step)
    return computed


def test_a_picture_with_larger_velocities_is_looked_at_sooner():
    firsts = [integrate(lambda _, v=v: v, 0.1)[1][0].skipped.index("0", 1) for v in (1.5, 3.0)]
    assert firsts[1] < firsts[0]
    for first, size in zip(firsts, (1.5, 3.0), strict=True):
        exactly = 1 - math.sqrt(FIRST / size)
        assert first == min(range(28), key=lambda step: abs(SIGMAS[step] - exactly))


def test_without_error_distances_double_and_divide_the_way_to_the_last_step_evenly():
    sigmas = [(1 - step / 1000) ** 3 for step in range(1001)]  # cube roots fall evenly
    # From 143 on, 856 are left: three stretches of about 286. Then 571: one of about 572.
    assert computed_steps(1.0, sigmas, 143, lambda step: 0.0) == [0, 143, 428, 999]


def test_a_distance_is_kept_while_error_times_sigma_is_the_tolerance_and_shrinks_after_a_bad_one():
    sigmas = [(1 - step / 1000) ** 3 for step in range(1001)]

    def just(step):
        return 0.01 / (sigmas[step - 143] - sigmas[step])

    evenly = [0, 143, 286, 428, 571, 714, 856, 999]
    assert computed_steps(0.01, sigmas, 143, just) == pytest.approx(evenly, abs=1)
    shorter = computed_steps(0.01, sigmas, 143, lambda step: 32 * just(step))
    assert shorter[2] - 143 == pytest.approx(143 / 2, abs=2)  # 32^(1/5) = 2
    at_once = computed_steps(0.01, SIGMAS, 4, lambda step: 100.0 if step == 4 else 0.0)
    assert at_once[:3] == [0, 4, 5]


def test_a_velocity_that_is_no_number_is_computed_again_soon_and_ends():
    _, (trace,) = integrate(lambda s: math.nan if s < 0.5 else 1.0, 0.01)
    assert trace.skipped[-1] == "0"
    assert all(error is None or math.isfinite(error) for error in trace.distances)


@pytest.mark.parametrize("value", [0, -0.01, math.nan, math.inf, True, "0.01"])
def test_a_tolerance_that_is_none_is_refused(value):
    with pytest.raises(JobError, match=r"cache\.tolerance"):
        parse_job({"cache": {"policy": "multistep", "tolerance": value}}, "a test")


def test_tolerance_belongs_to_multistep_and_thresholds_to_the_others():
    with pytest.raises(JobError, match=r"cache\.tolerance would have no effect"):
        load_job(None, ["cache.policy=first_block", "cache.tolerance=0.01"])
    with pytest.raises(JobError, match=r"cache\.threshold would have no effect"):
        load_job(None, ["cache.policy=multistep", "cache.threshold=0.1"])


@pytest.fixture(scope="module")
def engine():
    job = make_job("tiny")
    return build_engine(job, resolve(job.model))


def paint(engine, pictures, tolerance):
    """Latents, traces and pixels of a group; without a cache where the tolerance is None."""
    cache = Cache(policy="multistep", tolerance=tolerance) if tolerance else Cache()
    engine.policy = make_policy(cache, "flux", len(engine.family.blocks))
    denoised = engine.denoise(pictures)
    return denoised.latents, denoised.traces, engine.decode(denoised)[0]


def pictures_of(count, *guided):
    """Held-out pictures, those of these places with classifier-free guidance."""
    chosen = [picture for picture, _ in held_out(count, SQUARE)]
    other = {"negative_prompt": "three green stars on a white background", "true_cfg": 2.5}
    return [replace(p, **other) if n in guided else p for n, p in enumerate(chosen)]


def test_where_every_step_is_computed_it_is_the_plain_loop_bit_for_bit(engine):
    pictures = pictures_of(2, 1)
    latents, traces, _ = paint(engine, pictures, 1e-9)
    firsts = [trace.skipped.index("0", 1) for trace in traces]  # no error is known before
    assert firsts[1] < firsts[0], "the guided one moves faster"
    assert all("1" not in trace.skipped[at + 2 :] for trace, at in zip(traces, firsts, strict=True))
    short = [replace(picture, steps=2) for picture in pictures]
    latents, traces, _ = paint(engine, short, 0.01)
    assert [trace.skipped for trace in traces] == ["00", "00"]
    assert torch.equal(latents, paint(engine, short, None)[0])


@pytest.mark.slow
def test_a_picture_is_the_same_alone_and_in_a_group_guided_or_not(engine):
    pictures = pictures_of(4, 1, 3)
    together, traces, _ = paint(engine, pictures, 0.02)
    assert len({trace.skipped for trace in traces}) > 1, "they compute different steps"
    for place, picture in enumerate(pictures):
        alone, (trace,), _ = paint(engine, [picture], 0.02)
        assert trace.skipped == traces[place].skipped
        assert psnr(alone[0], together[place]) >= 90


@pytest.mark.slow
def test_seven_of_28_steps_give_a_picture_at_57_decibels(engine):
    """Measured on 40 held-out pictures: see benchmarks/log.md."""
    pictures = pictures_of(8)
    _, _, plain = paint(engine, pictures, None)
    _, traces, pixels = paint(engine, pictures, 0.1)
    computed = [trace.skipped.count("0") for trace in traces]
    assert sum(computed) / 8 <= 7.2
    quality = [decibels(one, other) for one, other in zip(plain, pixels, strict=True)]
    assert sum(quality) / 8 >= 57
    assert min(quality) >= 48
