"""`batchgen doctor` says what was found, what to type, and whether anything failed."""

import json
from pathlib import Path

import pytest

from tests.support.rehearsal import ask

# A job that draws test cards needs no device: its examination takes no time.
REHEARSAL = ("--set", "engine.kind=pattern")


def test_findings_are_lines_for_people_and_objects_for_programs(tmp_path: Path) -> None:
    told = ask("doctor", *REHEARSAL, "--out", tmp_path / "runs")
    answer = ask("doctor", *REHEARSAL, "--out", tmp_path / "runs", "--json")
    assert (told.code, answer.code) == (0, 0), told
    found = [json.loads(line) for line in answer.out.splitlines()]
    assert [one["name"] for one in found][:5] == [
        *("versions", "memory", "open_files", "run_folder", "disk")
    ]
    for one in found:
        assert sorted(one) == ["found", "name", "node", "remedy", "state"]
        assert f"{one['state']:7}  {one['name']:15}  " in told.out
        assert (one["state"] == "ok") == (one["remedy"] == "")
    assert "0 failed" in told.out
    assert list(tmp_path.iterdir()) == []


def test_what_fails_is_told_with_its_remedy_and_the_exit_code() -> None:
    told = ask("doctor", *REHEARSAL, "--out", "/proc/sys")
    assert told.code == 1
    assert "failed   run_folder       /proc/sys: " in told.out
    assert "         → Name a writable folder with --out" in told.out
    assert ", 1 failed" in told.out


def test_a_site_is_asked_for_where_slurm_is(tmp_path: Path, no_driver: None) -> None:
    site = tmp_path / "site.toml"
    site.write_text('gpus_per_node = 8\ntime = "30"\n')
    told = ask("doctor", *REHEARSAL, "--site", site, "--out", tmp_path)
    assert told.code == 1
    assert "failed   slurm            no sbatch, " in told.out
    assert "→ Type this on a machine of the cluster" in told.out


@pytest.mark.parametrize(
    "words", [("--job", "no-such.toml"), ("--site", "no-such.toml"), ("--set", "engine.kind=x")]
)
def test_bad_input_is_refused_as_by_every_verb(words: tuple[str, ...]) -> None:
    assert ask("doctor", *words).code == 2
