"""What each policy decides, checked against hand-made numbers, and what `[cache]` refuses."""

import json
import math
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.engine.cache import make_policy
from batchgen.engine.cache.adacache import AdaCache
from batchgen.engine.cache.first_block import FirstBlock
from batchgen.engine.cache.policy import Bounded
from batchgen.engine.cache.replay import read_traces
from batchgen.engine.cache.teacache import COEFFICIENTS, TeaCache, rescale
from batchgen.errors import JobError
from batchgen.settings.job import parse_job
from tests.support.specimens import picture

NAN = math.nan
LINE = (1.0, 0.0)  # the polynomial x


def settings(**cache):
    return parse_job({"cache": cache}, "a test").cache


def decide(decider, distances):
    """The decider's trace: 1 for a skipped step, 0 for a computed one."""
    return "".join("01"[decider.before(step, distance)] for step, distance in enumerate(distances))


def test_first_block_skips_strictly_below_the_threshold():
    assert decide(FirstBlock(0.1), [NAN, 0.05, 0.1, 0.2, 0.0, NAN, math.inf]) == "0100100"


def test_warmup_steps_are_computed_whatever_is_measured():
    assert decide(Bounded(FirstBlock(0.1), 3, None), [NAN, 0.0, 0.0, 0.0, 0.0]) == "00011"


def test_after_max_consecutive_hits_a_step_is_computed():
    assert decide(Bounded(FirstBlock(0.1), 0, 2), [NAN] + [0.0] * 7) == "01101101"
    assert decide(Bounded(FirstBlock(0.1), 0, None), [NAN] + [0.0] * 7) == "01111111"


def test_a_miss_starts_the_count_of_consecutive_hits_again():
    assert decide(Bounded(FirstBlock(0.1), 0, 2), [NAN, 0.0, 0.5, 0.0, 0.0, 0.0]) == "010110"


def test_teacache_adds_up_and_begins_again_where_it_computes():
    """The sums are 0.2, 0.5, 0.9; 0.3, 0.5, 0.6. Those of 0.6 or more are computed.

    The last step is computed whatever its sum.
    """
    assert decide(TeaCache(0.6, LINE, 8), [NAN, 0.2, 0.3, 0.4, 0.3, 0.2, 0.1, 0.0]) == "01101100"


def test_teacache_begins_again_where_a_limit_made_it_compute():
    assert decide(Bounded(TeaCache(0.6, LINE, 9), 0, 1), [NAN] + [0.25] * 8) == "010101010"
    warmed_up = Bounded(TeaCache(0.6, LINE, 7), 3, None)
    assert decide(warmed_up, [NAN, 0.25, 0.25, 0.25, 0.25, 0.25, 0.0]) == "0001100"


def test_the_polynomial_is_the_published_one():
    """Values of numpy.poly1d with the coefficients of TeaCache4FLUX."""
    flux = COEFFICIENTS["flux"]
    assert rescale(flux, 0.0) == 0.264230861
    at_a_tenth = 0.49865165e-1 - 0.283781631 + 0.558554382 - 0.382021401 + 0.264230861
    at_one = 498.651651 - 283.781631 + 55.8554382 - 3.82021401 + 0.264230861
    assert rescale(flux, 0.1) == pytest.approx(at_a_tenth)
    assert rescale(flux, 1.0) == pytest.approx(at_one)


def test_the_polynomial_is_positive_so_that_a_threshold_of_zero_never_skips():
    flux = COEFFICIENTS["flux"]
    assert min(rescale(flux, distance / 1000) for distance in range(2000)) > 0


def test_adacache_grants_by_the_rate_of_change():
    """The limits are 0.08, 0.16, 0.24, 0.32 and 0.4 a step.

    After step 1, 0.1 < 0.16 grants 4 reuses. After step 6, 0.9 / 5 < 0.24 grants 3. After step 10,
    1.2 / 4 < 0.32 grants 2. After step 13, 1.5 / 3 grants none.
    """
    decider, trace = AdaCache(0.4), ""
    moved = iter([NAN, 0.1, 0.9, 1.2, 1.5, 1.0])
    for step in range(15):
        hit = decider.before(step, NAN)
        trace += "01"[hit]
        if not hit:
            decider.after(step, next(moved))
    assert trace == "001111011101100"


@pytest.mark.parametrize(
    ("rate", "reused"),
    [
        *((0.079, 5), (0.081, 4), (0.159, 4), (0.161, 3), (0.241, 2)),
        *((0.321, 1), (0.399, 1), (0.4, 0), (NAN, 0)),
    ],
)
def test_adacache_at_the_limits_of_the_papers_codebook(rate, reused):
    decider = AdaCache(0.4)
    decider.after(0, NAN)
    decider.after(1, rate)
    assert decide(decider, [NAN] * 7) == "1" * reused + "0" * (7 - reused)


def test_adacache_scales_its_codebook_by_the_threshold():
    for threshold, reused in ((0.8, 4), (0.4, 3), (0.2, 0), (0.0, 0)):
        decider = AdaCache(threshold)
        decider.after(0, NAN)
        decider.after(1, 0.2)
        assert decide(decider, [NAN] * 6).count("1") == reused


def test_adacache_is_bounded_by_warmup_and_max_consecutive():
    decider = Bounded(AdaCache(0.4), 3, 2)
    trace = ""
    for step in range(9):
        hit = decider.before(step, NAN)
        trace += "01"[hit]
        if not hit:
            decider.after(step, NAN if step == 0 else 0.0)
    assert trace == "000110110"


def test_a_schedule_skips_its_steps_of_every_picture():
    policy = make_policy(settings(policy="schedule", skip=[1, 3, 99]), "flux", 6)
    assert decide(policy.decider(7, [0.0] * 6), [NAN] * 5) == "01010"
    assert policy.signal is None


@pytest.mark.parametrize("keys", [["000000004", "000000005", "000000006"], [4, 5, 6]])
def test_traces_are_read_from_records_and_from_json(tmp_path, keys):
    """Keys were numbers in batchgen 0.2 and older."""
    outcomes = ["ok", "failed", "ok"]
    records = {"key": keys, "skipped": ["0011", "", "0100"], "outcome": outcomes}
    pq.write_table(pa.table(records), tmp_path / "000000.parquet")
    (tmp_path / "trace.json").write_text('{"4": "0011", "6": "0100"}')
    for path in (tmp_path / "000000.parquet", tmp_path / "trace.json"):
        recorded = read_traces(path)
        assert decide(recorded.decider(4, 4), [0.0] * 4) == "0011"
        assert decide(recorded.decider(6, 4), [0.0] * 4) == "0100"
        with pytest.raises(JobError, match="no trace of picture 5"):
            recorded.decider(5, 4)


def test_a_folder_of_records_is_read_whole(tmp_path):
    for shard in range(2):
        records = pa.table({"key": [f"{shard:09d}"], "skipped": ["01"]})
        pq.write_table(records, tmp_path / f"00000{shard}.parquet")
    policy = make_policy(settings(policy="replay", trace=str(tmp_path)), "flux", 6)
    assert [
        decide(policy.decider(picture(key), [1.0, 0.5, 0.0]), [NAN, NAN]) for key in (0, 1)
    ] == ["01", "01"]


@pytest.mark.parametrize("trace", ["001", "00111", "0x11", "1011", "0 11"])
def test_a_trace_that_does_not_fit_its_picture_is_refused(tmp_path, trace):
    (tmp_path / "trace.json").write_text(json.dumps({"7": trace}))
    with pytest.raises(JobError, match="picture 7: expected 4 letters"):
        read_traces(tmp_path / "trace.json").decider(7, 4)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("a.json", text) for text in ("{", "[1]", '{"x": "01"}')),
        *(("a.parquet", "PAR1"), ("b", None)),
    ],
)
def test_a_trace_file_that_cannot_be_read_is_refused_by_name(tmp_path, name, text):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(JobError, match=name):
        read_traces(tmp_path / name)


def test_records_without_traces_are_refused(tmp_path):
    pq.write_table(pa.table({"key": [1]}), tmp_path / "old.parquet")
    with pytest.raises(JobError, match="skipped"):
        read_traces(tmp_path / "old.parquet")


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ({"policy": "first_block", "threshold": -0.1}, "cache.threshold = -0.1"),
        ({"policy": "first_block", "threshold": NAN}, "cache.threshold"),
        ({"policy": "first_block", "blocks": 0}, "cache.blocks = 0.*expected 1 or more"),
        ({"policy": "replay", "blocks": -1, "trace": "x"}, "cache.blocks = -1"),
        (
            {"policy": "first_block", "blocks": 6},
            "blocks = 6: the model has 6 blocks.*expected 1 to 5",
        ),
        ({"policy": "replay", "blocks": 6, "trace": "x"}, "expected 1 to 5"),
        ({"policy": "first_block", "taylor_order": 3}, "cache.taylor_order = 3"),
        ({"policy": "first_block", "max_consecutive": 0}, "cache.max_consecutive = 0"),
        ({"policy": "first_block", "warmup": -1}, "cache.warmup = -1"),
        ({"policy": "schedule"}, 'policy = "schedule" needs skip'),
        ({"policy": "schedule", "skip": [0, 3]}, r"skip = \[0, 3\].*step 0 has nothing to reuse"),
        ({"policy": "replay"}, 'policy = "replay" needs trace'),
        ({"policy": "replay", "trace": "/nowhere/x.json"}, "/nowhere/x.json"),
        ({"policy": "mine"}, "cache.policy = 'mine'"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused_by_name(cache, message):
    with pytest.raises(JobError, match=message):
        make_policy(settings(**cache), "flux", 6)


def test_teacache_is_refused_for_a_family_without_coefficients():
    message = 'published for flux, not for sd3; policy = "first_block" needs none'
    with pytest.raises(JobError, match=message):
        make_policy(settings(policy="teacache"), "sd3", 24)


def test_all_problems_are_told_at_once():
    with pytest.raises(JobError) as caught:
        make_policy(settings(policy="teacache", skip=[0]), "sd3", 24)
    assert len(str(caught.value).splitlines()) == 3


def test_no_policy_is_none_even_for_a_model_of_one_block():
    assert make_policy(settings(), "flux", 1) is None


def test_every_picture_has_a_decider_of_its_own():
    bounded = settings(policy="first_block", max_consecutive=1, threshold=1.0)
    policy = make_policy(bounded, "flux", 6)
    one, other = (policy.decider(key, [0.0] * 5) for key in (1, 2))
    assert one.before(0, 0.0)
    assert other.before(0, 0.0)


def test_who_decides_before_its_step_is_measured_asks_for_no_signal(tmp_path):
    (tmp_path / "trace.json").write_text("{}")
    replay = {"policy": "replay", "trace": str(tmp_path / "trace.json")}
    schedule = {"policy": "schedule", "skip": [1]}
    free = [{"policy": "multistep"}, {"policy": "adacache"}, schedule, {**replay, "blocks": 0}]
    for given in free:
        assert make_policy(settings(**given), "flux", 6).signal is None
    for given in ({"policy": "first_block"}, {"policy": "teacache"}, replay):
        assert make_policy(settings(**given), "flux", 6).signal is not None


def test_policies_import_no_torch():
    code = "import sys, batchgen.engine.cache; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
