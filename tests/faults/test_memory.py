"""A group that does not fit the device is halved until it fits, and its records say so."""

from pathlib import Path

import pytest

from tests.support.rehearsal import records, rehearse


@pytest.mark.slow
def test_groups_are_halved_and_everything_is_made(tmp_path: Path) -> None:
    run, prompts = tmp_path / "halved", [f"a cat {n}" for n in range(16)]
    settings = {"engine__batch_size": 8, "shards__pictures": 8}
    assert rehearse(run, prompts, faults={"FITS": "3"}, **settings).code == 0
    made = [(record["outcome"], record["path"], record["group_size"]) for record in records(run)]
    assert made == [("ok", "oom_split", 2)] * 16
