"""Skipped steps of a small stack of blocks; `test_cache_flux.py` has a trained model's."""

import json
import math
import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch

from batchgen.engine.cache.policy import Policy, Signal
from batchgen.engine.cache.velocities import Velocities
from batchgen.engine.families.family import Tokens
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.mesh import Mesh
from tests.engine.cache.block_stack import (
    BLOCKS,
    SIGMAS,
    STEPS,
    BlockStack,
    denoise_share,
    policy_of,
)
from tests.support.replica_processes import RankProcesses
from tests.support.stock import psnr

GROUP = [3, 14, 15, 92, 65, 35, 89, 79]
FIRST_BLOCK = {"policy": "first_block", "threshold": 0.05}
BOUNDED = {"blocks": 2, "warmup": 2, "max_consecutive": 3}
SCHEDULE = {"policy": "schedule", "skip": [2, 3, 11]}
POLICIES = [
    FIRST_BLOCK,
    {"policy": "first_block", "threshold": 0.08, "taylor_order": 0, **BOUNDED},
    {"policy": "first_block", "threshold": 0.08, "taylor_order": 2},
    {"policy": "teacache", "threshold": 0.6},
    {"policy": "adacache", "threshold": 0.1},
    {"policy": "multistep", "tolerance": 0.002},
    SCHEDULE,
]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    torch.set_num_threads(1)


def skips(traces):
    return [trace.skipped for trace in traces]


@dataclass
class Scripted:
    """A decider whose decisions are fixed."""

    hits: list[bool]
    seen: list[tuple[int, float]] = field(default_factory=list)

    def before(self, step, distance):
        return self.hits[step]

    def after(self, step, distance):
        self.seen.append((step, distance))


def follow(velocity, trace, **policy):
    """Latents and trace of a picture whose velocity is this function of sigma, and its decider.

    :param trace: a letter a step, 1 for a skipped one.
    """
    decider = Scripted([letter == "1" for letter in trace])
    latents, sigmas = torch.zeros(1, 2, 3), SIGMAS[-len(trace) - 1 :]
    its = Velocities(Policy(lambda *_: decider, **policy), [0], latents, sigmas)
    for step, sigma in enumerate(sigmas[:-1]):

        def compute(_, sigma=sigma):
            return torch.full((1, 2, 3), velocity(sigma))

        latents, along = its.step(step, latents, lambda: [math.nan], compute)
        latents = latents + (sigmas[step + 1] - sigma) * along
    return latents[0, 0, 0].item(), its.traces()[0], decider


def euler(velocity, first):
    sigmas = SIGMAS[first:]
    return sum((b - a) * velocity(a) for a, b in pairwise(sigmas))


@pytest.mark.parametrize("settings", POLICIES, ids=str)
def test_a_group_of_eight_equals_its_pictures_alone_in_every_order(settings):
    stack, policy = BlockStack(), policy_of(**settings)
    alone = {key: stack.denoise(policy, [key]) for key in GROUP}
    assert any("1" in trace.skipped for _, (trace,) in alone.values())
    orders = [GROUP, GROUP[::-1], *(random.Random(seed).sample(GROUP, 8) for seed in range(4))]
    for order in orders:
        latents, traces = stack.denoise(policy, order)
        for key, mine, trace in zip(order, latents, traces, strict=True):
            (expected,), (expected_trace,) = alone[key]
            assert trace.skipped == expected_trace.skipped
            assert psnr(expected, mine) >= 90


def test_pictures_of_a_group_skip_steps_of_their_own():
    assert len(set(skips(BlockStack().denoise(policy_of(**FIRST_BLOCK), GROUP)[1]))) > 1


@pytest.mark.parametrize("policy", ["first_block", "teacache", "adacache"])
@pytest.mark.parametrize("taylor_order", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_threshold_of_zero_is_no_cache_bit_for_bit_and_divides_no_batch(
    policy, taylor_order, dtype, monkeypatch
):
    monkeypatch.delattr(Tokens, "rows")
    stack = BlockStack(dtype)
    expected, _ = stack.denoise(None, GROUP, contrasted=[1])
    calls = stack.calls.copy()
    zero = policy_of(policy=policy, threshold=0.0, taylor_order=taylor_order)
    latents, traces = stack.denoise(zero, GROUP, contrasted=[1])
    assert torch.equal(latents, expected)
    assert set(skips(traces)) == {"0" * STEPS}
    assert stack.calls == calls


def test_in_bf16_a_picture_that_computes_all_has_the_same_bits_beside_one_that_skips():
    """The plain loop multiplies a bf16 velocity, so a computed one must not become fp32."""
    torch.manual_seed(0)
    start = torch.randn(2, 3, 4).bfloat16()
    velocities = torch.randn(STEPS, 2, 3, 4).bfloat16()
    deciders = [Scripted([False] * STEPS), Scripted([False, *[True, False] * STEPS])]
    policy = Policy(lambda key, _: deciders[key])
    its = Velocities(policy, [0, 1], start, SIGMAS)
    sigmas, plain, latents = torch.tensor(SIGMAS), start, start
    for step in range(STEPS):
        change = sigmas[step + 1] - sigmas[step]
        plain = (plain.float() + change * velocities[step]).bfloat16()
        latents, along = its.step(step, latents, list, lambda some: some.of(velocities[step]))  # noqa: B023
        latents = (latents.float() + change * along).bfloat16()
    assert torch.equal(latents[0], plain[0])
    assert not torch.equal(latents[1], plain[1])


def test_a_distance_that_is_no_number_is_a_miss_for_its_picture_alone():
    def poison(step, latents):
        return latents if step < 5 else latents.index_fill(0, torch.tensor([1]), math.nan)

    policy, stack = policy_of(**FIRST_BLOCK), BlockStack()
    _, healthy = stack.denoise(policy, GROUP)
    assert "1" in healthy[1].skipped[5:]
    stack.poison = poison
    _, traces = stack.denoise(policy, GROUP)
    assert traces[1].skipped[5:] == "0" * (STEPS - 5)
    assert traces[1].distances[5:] == (None,) * (STEPS - 5)
    del traces[1], healthy[1]
    assert traces == healthy


def test_pictures_that_skip_need_no_block_after_the_probe_and_no_head():
    stack = BlockStack()
    _, traces = stack.denoise(policy_of(**FIRST_BLOCK), GROUP, contrasted=[2, 5])
    owner, calls = [*range(8), 2, 5], iter(stack.calls)
    counts = set()
    for step in range(STEPS):
        assert [next(calls), next(calls)] == [("embed", 10), (0, 10)]
        if misses := sum(traces[picture].skipped[step] == "0" for picture in owner):
            expected = [*range(1, BLOCKS), "head"]
            assert [next(calls) for _ in expected] == [(call, misses) for call in expected]
            counts.add(misses)
    assert next(calls, None) is None
    assert len(counts) >= 4, "batches of several sizes"


@pytest.mark.parametrize("settings", [p for p in POLICIES if "threshold" not in p], ids=str)
def test_a_step_that_all_skip_computes_nothing_where_nothing_is_probed(settings):
    stack = BlockStack()
    _, (trace,) = stack.denoise(policy_of(**settings), [3])
    assert "1" in trace.skipped
    computed = trace.skipped.count("0")
    assert stack.calls == [("embed", 1), *((n, 1) for n in range(BLOCKS)), ("head", 1)] * computed


@pytest.mark.parametrize("order", [0, 1])
def test_skipped_steps_are_corrected_at_the_next_computed_one_and_not_before(order):
    """A parabola is what the correction restores, and the prediction misses it."""

    def velocity(sigma):
        return 1 - 2 * sigma + 4 * sigma * sigma

    def off(trace):
        latents, _, _ = follow(velocity, trace, taylor_order=order)
        return abs(latents - euler(velocity, STEPS - len(trace)))

    assert off("00011111110") < 1e-6
    assert off("00011111111") > 1e-2


def test_only_the_picture_that_skipped_is_corrected():
    latents, velocity = torch.zeros(2, 1, 1), torch.tensor([1.0, 5.0]).view(2, 1, 1)
    deciders = [Scripted([False, True, False]), Scripted([False, False, False])]
    its = Velocities(Policy(lambda key, _: deciders[key]), [0, 1], latents, SIGMAS)
    for step, values in enumerate((velocity, velocity, 2 * velocity)):
        corrected, _ = its.step(step, latents, list, lambda some, values=values: some.of(values))
    share = (SIGMAS[1] - SIGMAS[0]) / (SIGMAS[2] - SIGMAS[0])  # of the way from 1 to 2
    expected = (SIGMAS[2] - SIGMAS[1]) * share
    assert corrected.flatten().tolist() == pytest.approx([expected, 0.0], abs=1e-7)


def test_errors_are_recorded_by_hand():
    """A line from 1 to 0.9, and then a jump: predicted 0.7, found 1.4, off by 0.7."""
    values = iter([1.0, 0.9, 1.4])
    one, two, four = SIGMAS[0], SIGMAS[1], 3
    seen = []

    def velocity(sigma):
        seen.append(sigma)
        return next(values)

    _, trace, decider = follow(velocity, "001" + "0" + "1" * (STEPS - 4))
    reach = max(SIGMAS[four], 2 * two - one)
    predicted = 0.9 + (0.9 - 1.0) / (two - one) * (reach - two)
    assert trace.distances[:2] == (None, pytest.approx(0.1, rel=1e-5))
    assert trace.distances[2] is None
    assert trace.distances[3] == pytest.approx(1.4 - predicted, rel=1e-5)
    assert decider.seen == [], "who learns nothing is not told, and nobody waits"


@pytest.mark.parametrize("learns", ["error", "change"])
def test_deciders_learn_what_their_policy_says(learns):
    values = iter([2.0, 3.0, 4.0, 8.0])
    _, trace, decider = follow(lambda _: next(values), "0010011", learns=learns, taylor_order=0)
    # Of order 0, the error is the change, but absolute.
    expected = {"error": [1.0, 1.0, 4.0], "change": [1 / 3, 1 / 4, 4 / 8]}[learns]
    assert decider.seen[0][1] == {"error": 2.0, "change": 1.0}[learns], "the whole velocity"
    assert [step for step, _ in decider.seen] == [0, 1, 3, 4]
    assert [told for _, told in decider.seen[1:]] == pytest.approx(expected)
    assert [trace.distances[step] for step in (1, 3, 4)] == pytest.approx(expected)
    assert trace.distances[2] is None


def test_a_change_is_since_the_last_computed_step_whatever_was_predicted():
    values = iter([1.0, 2.0, 3.0])
    _, _, decider = follow(lambda _: next(values), "000", learns="change")
    assert [told for _, told in decider.seen[1:]] == pytest.approx([1 / 2, 1 / 3])


def test_a_contrasted_picture_is_the_same_alone_and_in_a_group():
    policy, stack = policy_of(**FIRST_BLOCK), BlockStack()
    latents, traces = stack.denoise(policy, GROUP, contrasted=[3, 6])
    for place in (3, 6):
        alone, (trace,) = stack.denoise(policy, [GROUP[place]], contrasted=[0])
        assert trace.skipped == traces[place].skipped
        assert psnr(alone[0], latents[place]) >= 90
    _, (plain,) = stack.denoise(policy, [GROUP[3]])
    assert plain.skipped != traces[3].skipped, "the second row counts"


def test_a_replayed_trace_gives_the_same_bits(tmp_path):
    latents, traces = BlockStack().denoise(policy_of(**FIRST_BLOCK), [0, 1, 2])
    file = tmp_path / "trace.json"
    file.write_text(json.dumps({key: trace.skipped for key, trace in enumerate(traces)}))
    replay = policy_of(policy="replay", trace=str(file))
    replayed, again = BlockStack().denoise(replay, [0, 1, 2])
    assert torch.equal(replayed, latents)
    assert again == traces, "distances too: replay measures"
    stack = BlockStack()
    alone, (trace,) = stack.denoise(policy_of(policy="replay", trace=str(file), blocks=0), [2])
    assert trace.skipped == traces[2].skipped, "found by key, not by place"
    assert psnr(alone[0], latents[2]) >= 90
    computed = trace.skipped.count("0")
    assert stack.calls.count(("embed", 1)) == stack.calls.count((0, 1)) == computed


def test_a_schedule_skips_its_steps_for_all_and_records_errors():
    stack = BlockStack()
    _, traces = stack.denoise(policy_of(policy="schedule", skip=[3, 4]), GROUP)
    assert set(skips(traces)) == {"00011" + "0" * (STEPS - 5)}
    for trace in traces:
        known = [distance is not None for distance in trace.distances]
        assert known == [step not in (0, 3, 4) for step in range(STEPS)]
    assert [call for call in stack.calls if call[0] == "head"] == [("head", 8)] * (STEPS - 2)


def test_a_group_that_fails_in_the_middle_leaves_nothing_behind():
    settings = {**FIRST_BLOCK, "warmup": 1, "max_consecutive": 4}
    policy, stack = policy_of(**settings), BlockStack()

    def fail(step, latents):
        if step == 9:
            raise RuntimeError("a lost device")
        return latents

    stack.poison = fail
    with pytest.raises(RuntimeError):
        stack.denoise(policy, GROUP)
    stack.poison = BlockStack().poison
    latents, traces = stack.denoise(policy, [1, 2])
    expected, fresh = BlockStack().denoise(policy_of(**settings), [1, 2])
    assert torch.equal(latents, expected)
    assert traces == fresh


@pytest.mark.parametrize("taylor_order", [0, 1, 2])
def test_bf16_stays_bf16(taylor_order):
    policy = policy_of(policy="first_block", threshold=0.08, taylor_order=taylor_order)
    latents, traces = BlockStack(torch.bfloat16).denoise(policy, GROUP, contrasted=[0])
    assert latents.dtype == torch.bfloat16
    assert "1" in traces[0].skipped


def test_a_step_cannot_be_taken_twice_or_left_out():
    latents = torch.zeros(1, 1, 1)
    its = Velocities(policy_of(**SCHEDULE), [0], latents, SIGMAS)

    def take(step):
        its.step(step, latents, lambda: [math.nan], lambda _: latents)

    take(0)
    for step in (0, 2):
        with pytest.raises(AssertionError, match=f"step {step} after 1 steps"):
            take(step)


def test_what_is_measured_comes_before_the_decision_and_only_where_there_is_a_signal():
    def fail():
        raise AssertionError("measured")

    latents = torch.zeros(1, 1, 1)
    for signal in (None, Signal("modulated")):
        policy = Policy(lambda *_: Scripted([False]), signal)
        its = Velocities(policy, [0], latents, SIGMAS)
        if signal:
            with pytest.raises(AssertionError, match="measured"):
                its.step(0, latents, fail, lambda _: latents)
        else:
            its.step(0, latents, fail, lambda _: latents)


@pytest.fixture(scope="module")
def pair():
    """Two processes that form a replica."""
    with RankProcesses(2) as ranks:
        ranks.connect(Mesh(2))
        yield ranks
        ranks.close()


@pytest.mark.slow
@pytest.mark.parametrize("taylor_order", [0, 1])
def test_ranks_that_would_decide_differently_decide_as_one(pair, taylor_order):
    cache = {**FIRST_BLOCK, "taylor_order": taylor_order}
    expected, traces = BlockStack().denoise(policy_of(**cache), [1, 2, 3])
    latents = [Ranks(rank, Mesh(2)) for rank in range(2)]
    one, other = (BlockStack().denoise(policy_of(**cache), [1, 2, 3], share=x)[1] for x in latents)
    assert skips(one) != skips(other), "distances fall on both sides of the threshold"
    for latents, mine in pair.run(denoise_share, False, cache):
        assert skips(mine) == skips(traces)
        assert psnr(expected, latents) >= 90


@pytest.mark.slow
@pytest.mark.parametrize("settings", POLICIES[3:], ids=str)
def test_ranks_skip_and_paint_as_one_rank_does(pair, settings):
    expected, traces = BlockStack().denoise(policy_of(**settings), [1, 2, 3])
    (one, first), (other, second) = pair.run(denoise_share, False, settings)
    assert first == second
    assert torch.equal(one, other)
    assert skips(first) == skips(traces)
    assert psnr(expected, one) >= 90


@pytest.mark.slow
def test_ranks_that_measure_different_sums_follow_rank_0(pair):
    undisturbed = pair.run(denoise_share, False, FIRST_BLOCK)[0]
    (_, first), (_, second) = pair.run(denoise_share, True, FIRST_BLOCK)
    assert first == second == undisturbed[1]
