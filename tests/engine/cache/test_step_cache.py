"""Step caching on a small stack of blocks; `test_cache_flux.py` has a trained model's."""

import json
import random
from dataclasses import dataclass

import pytest
import torch

from batchgen.engine.cache.policy import Policy
from batchgen.engine.cache.step_cache import StepCache
from batchgen.engine.families.family import Tokens
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.mesh import Mesh
from tests.engine.cache.block_stack import BLOCKS, STEPS, BlockStack, denoise_share, policy_of
from tests.support.replica_processes import RankProcesses
from tests.support.stock import psnr

GROUP = [3, 14, 15, 92, 65, 35, 89, 79]
FIRST_BLOCK = {"policy": "first_block", "threshold": 0.05}
BOUNDED = {"blocks": 2, "warmup": 2, "max_consecutive": 3}
POLICIES = [
    FIRST_BLOCK,
    {"policy": "first_block", "threshold": 0.08, "taylor_order": 1, **BOUNDED},
    {"policy": "first_block", "threshold": 0.08, "taylor_order": 2},
    {"policy": "teacache", "threshold": 0.6},
    {"policy": "adacache", "threshold": 0.1, "taylor_order": 1},
    {"policy": "schedule", "skip": [2, 3, 11]},
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

    def before(self, step, distance):
        return self.hits[step]

    def after(self, step, distance):
        pass


def scripted(*hits: list[bool], **policy) -> Policy:
    """A policy of fixed decisions.

    :param hits: for each step, which of the B pictures skip it.
    """
    return Policy(lambda key, _: Scripted([step[key] for step in hits]), **policy)


def steps_of(policy: Policy, images, owner=(0,), blocks=lambda image, count: image + count):
    """The image tokens after each step, and the traces.

    :param images: for each step, R rows of one token of one value.
    :param blocks: what `count` of the 4 blocks make of the image tokens; each adds 1.
    """
    sigmas = [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]
    cache = StepCache(policy, 4, range(max(owner) + 1), owner, sigmas, Ranks())

    def run(first, last, tokens, rows):
        return Tokens(blocks(tokens.image, last - first), tokens.text)

    results = []
    for step, image in enumerate(images):
        tokens = Tokens(torch.tensor(image).view(-1, 1, 1), torch.zeros(len(owner), 1, 1))
        results.append(cache.step(step, tokens, run, lambda image: image).flatten().tolist())
    return results, cache.traces()


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
    assert len(set(skips(BlockStack().denoise(policy_of(**POLICIES[0]), GROUP)[1]))) > 1


@pytest.mark.parametrize("policy", ["first_block", "teacache", "adacache"])
@pytest.mark.parametrize("taylor_order", [0, 2])
def test_a_threshold_of_zero_is_no_cache_bit_for_bit_and_divides_no_batch(
    policy, taylor_order, monkeypatch
):
    monkeypatch.delattr(Tokens, "rows")
    plain, cached = BlockStack(), BlockStack()
    expected, _ = plain.denoise(None, GROUP, contrasted=[1])
    zero = policy_of(policy=policy, threshold=0.0, taylor_order=taylor_order)
    latents, traces = cached.denoise(zero, GROUP, contrasted=[1])
    assert torch.equal(latents, expected)
    assert set(skips(traces)) == {"0" * STEPS}
    assert {rows is None for _, _, rows in cached.calls} == {True}


def test_a_distance_of_zero_is_not_under_a_threshold_of_zero():
    _, (trace,) = steps_of(policy_of(policy="first_block", threshold=0.0), [[7.0], [7.0], [7.0]])
    assert trace.skipped == "000"
    assert trace.distances == (None, 0.0, 0.0)


def test_a_distance_that_is_no_number_is_a_miss_for_its_picture_alone():
    def poison(step, latents):
        return latents if step != 5 else latents.index_fill(0, torch.tensor([1]), float("nan"))

    policy = policy_of(**FIRST_BLOCK)
    _, healthy = BlockStack().denoise(policy, GROUP)
    assert "1" in healthy[1].skipped[5:]
    _, traces = BlockStack().denoise(policy, GROUP, poison=poison)
    assert traces[1].skipped[5:] == "0" * (STEPS - 5)
    assert traces[1].distances[5:] == (None,) * (STEPS - 5)
    del traces[1], healthy[1]
    assert traces == healthy


def test_misses_alone_go_through_the_remaining_blocks():
    stack = BlockStack()
    _, traces = stack.denoise(policy_of(**FIRST_BLOCK), GROUP, contrasted=[2, 5])
    owner, calls = [*range(8), 2, 5], iter(stack.calls)
    for step in range(STEPS):
        assert next(calls) == (0, 1, None)
        misses = [row for row, picture in enumerate(owner) if traces[picture].skipped[step] == "0"]
        if misses:
            assert next(calls) == (1, BLOCKS, misses if len(misses) < len(owner) else None)
    assert next(calls, None) is None
    assert {len(rows) for _, _, rows in stack.calls if rows} >= {2, 3, 4, 5}


def test_a_hit_adds_the_last_computed_residual():
    policy = scripted([False, False], [True, False], [False, True])
    results, _ = steps_of(policy, [[0.0, 5.0], [10.0, 15.0], [20.0, 25.0]], owner=(0, 1))
    assert results == [[4, 9], [14, 19], [24, 29]]


def test_a_miss_is_what_was_computed_and_no_sum_that_rounds():
    """1e8 + (0.5 - 1e8) is 0 in fp32."""

    def half(image, _):
        return torch.full_like(image, 0.5)

    policy = scripted([False, False], [True, False])
    results, _ = steps_of(policy, [[1e8, 1e8], [1e8, 1e8]], owner=(0, 1), blocks=half)
    assert results == [[0.5, 0.5], [0.0, 0.5]]


def test_both_rows_of_a_picture_share_a_decision_over_the_sums_of_both():
    """Changes of 1 in 10 and 9 in 10 are 0.5 together."""
    policy = policy_of(policy="teacache", threshold=0.0)
    _, (shared,) = steps_of(policy, [[10.0, 10.0], [11.0, 19.0]], owner=(0, 0))
    assert shared.distances == (None, 0.5)
    _, apart = steps_of(policy, [[10.0, 10.0], [11.0, 19.0]], owner=(0, 1))
    assert [trace.distances[1] for trace in apart] == pytest.approx([0.1, 0.9])


def test_a_contrasted_picture_is_the_same_alone_and_in_a_group():
    policy, stack = policy_of(**FIRST_BLOCK, taylor_order=1), BlockStack()
    latents, traces = stack.denoise(policy, GROUP, contrasted=[6, 3])
    for place in (3, 6):
        alone, (trace,) = stack.denoise(policy, [GROUP[place]], contrasted=[0])
        assert trace.skipped == traces[place].skipped
        assert psnr(alone[0], latents[place]) >= 90
    _, (plain,) = stack.denoise(policy, [GROUP[3]])
    assert plain.skipped != traces[3].skipped, "the second row counts"


def test_the_reference_is_the_last_computed_step_or_the_step_before():
    hits = [[False], [True], [True], [False], [False]]
    values = [[1.0], [2.0], [4.0], [8.0], [16.0]]
    _, (computed,) = steps_of(scripted(*hits, signal="modulated"), values)
    assert computed.distances == (None, 1.0, 3.0, 7.0, 1.0)
    _, (previous,) = steps_of(scripted(*hits, signal="modulated", reference="previous"), values)
    assert previous.distances == (None, 1.0, 1.0, 1.0, 1.0)


def test_a_reference_is_renewed_only_where_the_picture_was_computed():
    hits = [[False, False], [True, False], [False, True], [False, False]]
    values = [[1.0, 1.0], [2.0, 2.0], [4.0, 4.0], [8.0, 8.0]]
    _, traces = steps_of(scripted(*hits, signal="modulated"), values, owner=(0, 1))
    assert traces[0].distances == (None, 1.0, 3.0, 1.0)
    assert traces[1].distances == (None, 1.0, 1.0, 3.0)


def test_a_policy_that_judges_sees_how_the_residual_moved_between_computed_steps():
    """The blocks double their input, so the residual is 15 times the input."""
    seen = []

    def double(image, count):
        return image * 2**count

    class Judge(Scripted):
        def after(self, step, distance):
            seen.append((step, distance))

    policy = Policy(lambda *_: Judge([False, False, True, False]), judges=True)
    _, (trace,) = steps_of(policy, [[1.0], [1.5], [9.0], [6.0]], blocks=double)
    assert trace.distances == (None, 0.5, None, 3.0)
    assert seen == [(0, pytest.approx(float("nan"), nan_ok=True)), (1, 0.5), (3, 3.0)]


def test_a_replayed_trace_gives_the_same_bits(tmp_path):
    latents, traces = BlockStack().denoise(policy_of(**FIRST_BLOCK), [0, 1, 2])
    file = tmp_path / "trace.json"
    file.write_text(json.dumps({key: trace.skipped for key, trace in enumerate(traces)}))
    replay = policy_of(policy="replay", trace=str(file))
    replayed, again = BlockStack().denoise(replay, [0, 1, 2])
    assert torch.equal(replayed, latents)
    assert again == traces, "distances too: replay measures"
    _, (alone,) = BlockStack().denoise(replay, [2])
    assert alone.skipped == traces[2].skipped, "found by key, not by place"


def test_a_schedule_skips_its_steps_for_all_and_measures_nothing():
    stack = BlockStack()
    _, traces = stack.denoise(policy_of(policy="schedule", skip=[3, 4]), GROUP)
    assert set(skips(traces)) == {"00011" + "0" * (STEPS - 5)}
    assert {trace.distances for trace in traces} == {(None,) * STEPS}
    assert stack.calls == [(0, BLOCKS, None)] * (STEPS - 2)


def test_a_group_that_fails_in_the_middle_leaves_nothing_behind():
    settings = {**FIRST_BLOCK, "warmup": 1, "max_consecutive": 4, "taylor_order": 1}
    policy, stack = policy_of(**settings), BlockStack()

    def fail(step, latents):
        if step == 9:
            raise RuntimeError("a lost device")
        return latents

    with pytest.raises(RuntimeError):
        stack.denoise(policy, GROUP, poison=fail)
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
    policy = policy_of(policy="schedule", skip=[1])
    cache = StepCache(policy, 4, [0], [0], [1.0, 0.5, 0.2, 0.0], Ranks())
    tokens = Tokens(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))
    cache.step(0, tokens, lambda first, last, tokens, rows: tokens)
    for step in (0, 2):
        with pytest.raises(AssertionError, match=f"step {step} after 1 steps"):
            cache.step(step, tokens, lambda first, last, tokens, rows: tokens)


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
    shares = [Ranks(rank, Mesh(2)) for rank in range(2)]
    one, other = (BlockStack().denoise(policy_of(**cache), [1, 2, 3], share=x)[1] for x in shares)
    assert skips(one) != skips(other), "distances fall on both sides of the threshold"
    for latents, mine in pair.run(denoise_share, False, cache):
        assert skips(mine) == skips(traces)
        assert (latents - expected).abs().max() <= 1e-4


@pytest.mark.slow
def test_ranks_that_measure_different_sums_follow_rank_0(pair):
    undisturbed = pair.run(denoise_share, False, FIRST_BLOCK)[0]
    (_, first), (_, second) = pair.run(denoise_share, True, FIRST_BLOCK)
    assert first == second == undisturbed[1]
