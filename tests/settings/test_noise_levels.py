"""Noise levels that a job states: which are accepted, and what the others are told."""

import pytest

from batchgen.errors import JobError
from batchgen.settings import Job, load_job, to_toml
from batchgen.settings.job import parse_job


def levels(**sampling: object) -> Job:
    return parse_job({"sampling": sampling}, "a test")


def test_falling_levels_and_a_shift_are_accepted_together_and_written_back() -> None:
    job = levels(steps=3, shift=3, sigmas=[1, 0.5, 0.0003])
    assert (job.sampling.shift, job.sampling.sigmas) == (3.0, (1.0, 0.5, 0.0003))
    assert (
        load_job(None, ["sampling.sigmas=[0.9, 0.4]", "sampling.shift=1.5"]).sampling.shift == 1.5
    )
    assert not levels().sampling.sigmas
    assert "shift" not in to_toml(levels())


def test_a_recorded_job_reads_back_as_it_was(tmp_path) -> None:
    job = levels(steps=3, shift=3, sigmas=[1, 0.5, 0.0003])
    (tmp_path / "job.toml").write_text(to_toml(job))
    assert load_job(tmp_path / "job.toml") == job


@pytest.mark.parametrize(
    ("sigmas", "told"),
    [
        ([1.0, 0.5, 0.5], r"0\.5 is followed by 0\.5; expected falling levels"),
        ([0.5, 1.0], r"0\.5 is followed by 1; expected falling levels"),
        ([1.0, 0.0], "above 0 and up to 1; the 0 at the end is not written"),
        ([1.5, 1.0], "above 0 and up to 1"),
        ([1.0, -0.5], "above 0 and up to 1"),
        ([1.0, "0.5"], r"sigmas\.1 = '0\.5'"),
        ([float("nan")], "finite"),
        (0.5, r"sampling\.sigmas = 0\.5: Input should be a valid tuple"),
        ([1 - place / 2000 for place in range(1001)], "1001 levels; expected at most 1000"),
    ],
)
def test_levels_that_no_loop_goes_down_are_refused(sigmas: object, told: str) -> None:
    with pytest.raises(JobError, match=told):
        levels(sigmas=sigmas)


@pytest.mark.parametrize("shift", [0, -1, 0.001, 1000, float("inf"), "3"])
def test_a_shift_that_is_none_is_refused(shift: object) -> None:
    with pytest.raises(JobError, match=r"sampling\.shift = "):
        levels(shift=shift)
