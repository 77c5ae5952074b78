"""Steps of a class: computed as the schedule says, or more where a picture errs more."""

import math

import pytest

from batchgen.engine.build import build_engine
from batchgen.engine.cache import make_policy
from batchgen.engine.cache.scheduled_start import ScheduledStart
from batchgen.errors import JobError
from batchgen.model.checkpoint import resolve
from batchgen.settings import Cache, ClassSchedule
from tests.support.specimens import picture
from tests.support.stock import make_job, make_picture, psnr

STEPS, COMPUTED = 12, (0, 5, 8, 10)
SIGMAS = [(1 - step / STEPS) ** 0.7 for step in range(STEPS + 1)]


def schedule(computed=COMPUTED, error=0.1, **given):
    values = {"pixels": 2**14, "steps": STEPS, "negative_prompt": False}
    errors = (error,) * (len(computed) - 1)
    return ClassSchedule.model_validate({"computed": computed, "errors": errors, **values, **given})


CLASSES = (schedule(), schedule((0, 3, 6, 9, 11), negative_prompt=True))


def walk(error, sigmas=SIGMAS, **given):
    """The steps that a picture computes whose errors are what `error` says of a step."""
    its, computed = ScheduledStart(schedule(**given), sigmas), []
    for step in range(len(sigmas) - 1):
        if not its.before(step, math.nan):
            its.after(step, error(step) if computed else math.nan)
            computed.append(step)
    return tuple(computed)


def test_a_picture_that_errs_no_more_than_usual_computes_the_schedule():
    assert walk(lambda _: 0.1) == COMPUTED
    assert walk(lambda _: 0.0) == COMPUTED


@pytest.mark.parametrize("error", [0.4, 1e9, math.nan, math.inf])
def test_a_picture_that_errs_more_computes_more(error):
    more = walk(lambda _: error)
    assert len(more) > len(COMPUTED)
    assert more[:2] == COMPUTED[:2], "before its first error it is like any other"


def test_after_one_large_error_the_next_stretch_is_short_and_the_usual_ones_come_back():
    """Twice as long as the error allows: half a stretch; and then, with no error, a whole one."""
    steps = walk(lambda step: 0.4 if step == 6 else 0.0, sigmas=[*range(24, -1, -1)], steps=24,
                 computed=(0, 6, 12, 18))  # fmt: skip
    assert steps == (0, 6, 9, 15, 21)


def test_what_is_computed_never_stops_before_the_last_mark():
    for error in (0.1, 0.2, 0.3, 0.5, 1.0, 10.0):
        assert walk(lambda _, error=error: error)[-1] >= COMPUTED[-1]


def test_where_one_step_is_computed_there_is_no_error_to_compare_with():
    assert walk(lambda _: 1.0, computed=(0,)) == (0,)
    assert walk(lambda _: 1.0, computed=(0,), steps=1, sigmas=[1.0, 0.0]) == (0,)
    assert make_policy(Cache(policy="multistep", classes=(schedule((0,)),)), "flux", 6)


def test_a_policy_asks_for_the_class_of_each_picture():
    policy = make_policy(Cache(policy="schedule", classes=CLASSES), "flux", 6)
    given = {"width": 128, "height": 128, "steps": STEPS}
    for changes, computed in (({}, COMPUTED), ({"negative_prompt": "x"}, CLASSES[1].computed)):
        decider = policy.decider(picture(**given, **changes), SIGMAS)
        made = [step for step in range(STEPS) if not decider.before(step, math.nan)]
        assert tuple(made) == computed
    with pytest.raises(JobError, match="none for about 256×256 px, 12 steps, without"):
        policy.decider(picture(width=256, height=256, steps=STEPS), SIGMAS)


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ({"policy": "schedule", "skip": (1,), "classes": CLASSES}, "skip and classes each say"),
        ({"policy": "schedule", "classes": (*CLASSES, CLASSES[0])}, "two schedules for about"),
        ({"policy": "multistep", "classes": (schedule(errors=()),)}, "some class has none"),
        ({"policy": "multistep", "tolerance": 0.1, "classes": CLASSES}, "tolerance would have no"),
    ],
)
def test_what_contradicts_itself_is_refused(cache, message):
    with pytest.raises(JobError, match=message):
        make_policy(Cache(**cache), "flux", 6)


@pytest.fixture(scope="module")
def engine():
    job = make_job("tiny")
    return build_engine(job, resolve(job.model))


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["schedule", "multistep"])
def test_pictures_compute_the_steps_of_their_class_alone_and_in_a_group(engine, policy):
    classes = CLASSES if policy == "schedule" else tuple(
        one.model_copy(update={"errors": (1e-3,) * len(one.errors)}) for one in CLASSES
    )  # fmt: skip
    engine.policy = make_policy(Cache(policy=policy, classes=classes), "flux", 6)
    for negative, one in (("", classes[0]), ("three green stars", classes[1])):
        group = [
            make_picture(
                key, width=128, height=128, steps=STEPS, negative_prompt=negative, true_cfg=2.5
            )
            for key in range(3)
        ]
        together = engine.denoise(group)
        if policy == "schedule":
            assert {trace.skipped for trace in together.traces} == {
                "".join("0" if step in one.computed else "1" for step in range(STEPS))
            }
        else:  # errors are never so small: more is computed
            assert all(t.skipped.count("0") > len(one.computed) for t in together.traces)
        for place, its in enumerate(group):
            alone = engine.denoise([its])
            assert alone.traces[0].skipped == together.traces[place].skipped
            assert psnr(alone.latents[0], together.latents[place]) >= 90


@pytest.mark.slow
def test_recording_changes_no_bit_and_gives_the_products_of_the_velocities(engine):
    """The latents' way through sigma is the sum of the velocities: so is its size, by products."""
    group = [make_picture(key, width=128, height=128, steps=4) for key in range(2)]
    engine.policy = None
    plain = engine.denoise(group)
    engine.records = True
    try:
        recorded = engine.denoise(group)
        noise = engine.denoise([group[0]]).traces[0].products
    finally:
        engine.records = False
    assert plain.traces == ()
    assert plain.latents.equal(recorded.latents)
    for trace in recorded.traces:
        assert (trace.skipped, trace.distances) == ("", ())
        assert len(trace.products) == 5 + 10
        sigmas, products = trace.products[:5], trace.products[5:]
        assert list(sigmas) == sorted(sigmas, reverse=True)
        diagonal = [products[place] for place in (0, 2, 5, 9)]
        assert min(diagonal) > 0
        # Cauchy and Schwarz, for every pair.
        for row in range(4):
            for column in range(row):
                inner = products[row * (row + 1) // 2 + column]
                assert inner**2 <= diagonal[row] * diagonal[column] * (1 + 1e-9)
    assert noise[5:] == pytest.approx(recorded.traces[0].products[5:], rel=1e-3)
