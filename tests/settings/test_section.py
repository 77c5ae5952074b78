"""TOML that cannot be read, and values of a megabyte, are answered in a few words."""

from pathlib import Path

import pytest

from batchgen.errors import JobError
from batchgen.settings.job import load_job

UNREADABLE = {
    "deep lists": "x = " + "[" * 100_000,
    "deep tables": "x = " + "{a=" * 1_000 + "1" + "}" * 1_000,
    "a long integer": "x = " + "9" * 5_000,
    "half of a string": 'x = "',
}


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_toml_that_no_reader_takes_is_told_as_such(text: str, tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(text)
    with pytest.raises(JobError, match=r"job\.toml: not TOML: ") as raised:
        load_job(tmp_path / "job.toml")
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    "override",
    [
        "x" * 1_000_000,
        "x" * 1_000_000 + "=1",
        "sampling=" + "x" * 1_000_000,
        "sampling.steps=" + "9" * 4_000,
        "sampling.steps=" + "[" * 100_000,
        "output.license.x=" + "x" * 1_000_000,
    ],
)
def test_a_long_override_is_cut_in_the_message(override: str) -> None:
    with pytest.raises(JobError) as raised:
        load_job(None, [override])
    assert len(str(raised.value)) < 2_000


@pytest.mark.parametrize("halves", ["0", "3", "true", "2.0", '"2"', "many"])
def test_the_rows_of_guidance_are_shared_by_two_halves_or_not_at_all(halves: str) -> None:
    with pytest.raises(JobError, match=r"parallel\.cfg\S* = .*; parallel\.cfg\S* is: 2: half"):
        load_job(None, [f"parallel.cfg={halves}"])
    asked = [load_job(None, [f"parallel.cfg={each}"]).parallel for each in ("auto", "1", "2")]
    assert [parallel.degree for parallel in asked] == [1, 1, 2]


def test_a_replica_of_more_devices_than_any_cluster_has_is_refused() -> None:
    load_job(None, ["parallel.cp=1024"])
    with pytest.raises(JobError, match=r"parallel\.cp\S* = 1025: .* less than or equal to 1024"):
        load_job(None, ["parallel.cp=1025"])
