"""[audit]: which pictures are chosen, and what is refused."""

import pytest

from batchgen.errors import JobError
from batchgen.settings.audit import Audit, place
from batchgen.settings.job import load_job, parse_job

CACHED = "cache.policy=multistep"


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("keys", [range(20_000), range(10**8, 10**8 + 200_000, 10)])
def test_about_the_fraction_is_chosen_of_any_keys(fraction: float, keys: range) -> None:
    """Within five standard deviations of a fair draw."""
    chosen = sum(Audit(fraction=fraction).chooses(key, 0) for key in keys)
    deviation = (len(keys) * fraction * (1 - fraction)) ** 0.5
    assert abs(chosen - fraction * len(keys)) < 5 * deviation


def test_a_larger_fraction_keeps_what_a_smaller_one_chooses() -> None:
    few, more = (
        {key for key in range(500) if Audit(fraction=fraction).chooses(key, 7)}
        for fraction in (0.1, 0.3)
    )
    assert few < more


def test_another_run_seed_chooses_others_and_the_same_seed_the_same() -> None:
    """The hash is pinned: another would change which pictures of a run are audited."""
    audit = Audit(fraction=0.2)
    one, other = ([key for key in range(40) if audit.chooses(key, seed)] for seed in (0, 1))
    assert one != other
    assert one == [16, 19, 26, 31, 35]


def test_zero_chooses_none_and_one_chooses_all() -> None:
    assert not any(Audit().chooses(key, 0) for key in range(100))
    assert all(Audit(fraction=1.0).chooses(key, 0) for key in range(100))
    assert all(0 <= place(key, 2**63 - 1) < 1 for key in range(100))


def test_an_audit_without_a_cache_is_refused() -> None:
    told = r'audit\.fraction would have no effect: .*"none"\. --set cache\.policy=multistep'
    with pytest.raises(JobError, match=told):
        load_job(None, ["audit.fraction=0.1"])


def test_a_cache_that_is_overridden_away_takes_its_audit_along(tmp_path) -> None:
    file = tmp_path / "job.toml"
    file.write_text('[cache]\npolicy = "multistep"\n[audit]\nfraction = 1\n')
    assert load_job(file).audits(3)
    job = load_job(file, ["cache.policy=none"])
    assert (job.audited_share, job.audits(3)) == (0.0, False)


def test_a_floor_or_an_action_that_nothing_reads_is_refused_with_what_would() -> None:
    with pytest.raises(JobError, match=r"audit\.min_psnr would .* audit\.fraction is above 0"):
        load_job(None, [CACHED, "audit.min_psnr=40"])
    absent = r"is read where audit\.min_psnr is above 0, and here it is absent\. --set audit\.min"
    with pytest.raises(JobError, match=absent):
        load_job(None, [CACHED, "audit.fraction=0.1", "audit.action=stop"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("fraction", -0.1),
        ("fraction", 1.01),
        ("fraction", float("nan")),
        ("fraction", "0.1"),
        ("fraction", True),
        ("min_psnr", 0),
        ("min_psnr", 99),
        ("min_psnr", float("inf")),
        ("action", "halt"),
        ("psnr", 40),
    ],
)
def test_impossible_values_are_refused(key: str, value: object) -> None:
    audit = {"fraction": 0.1, key: value}
    with pytest.raises(JobError, match=rf"audit\.{key}"):
        parse_job({"cache": {"policy": "multistep"}, "audit": audit}, "a test")
