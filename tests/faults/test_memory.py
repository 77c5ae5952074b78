"""A group that does not fit the device is halved until it fits; its pictures say so, and are the same pictures."""

from pathlib import Path

import pytest

from tests.support.rehearsal import records, rehearse


@pytest.mark.slow
def test_groups_are_halved_and_everything_is_made(tmp_path: Path) -> None:
    prompts = [f"a cat {n}" for n in range(16)]
    answer = rehearse(
        tmp_path / "halved", prompts, faults={"FITS": "3"}, engine__batch_size=8, shards__pictures=8
    )
    assert answer.code == 0
    made = records(tmp_path / "halved")
    assert {(record["outcome"], record["path"], record["group_size"]) for record in made} == {
        ("ok", "oom_split", 2)
    }
    assert len(made) == 16
