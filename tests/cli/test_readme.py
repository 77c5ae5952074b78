"""The README's commands, run as printed, and the ready job files."""

import re
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batchgen.settings.job import load_job
from tests.support.rehearsal import ask, records

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_its_commands_paint_watch_and_verify_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder where the FLUX.1-dev job paints four prompts with the embedded model in two steps."""
    pq.write_table(
        pq.read_table(ROOT / "manifests" / "prompts.parquet").slice(0, 4),
        tmp_path / "prompts.parquet",
    )
    (tmp_path / "jobs").mkdir()
    tiny = (ROOT / "jobs" / "tiny.toml").read_text()
    (tmp_path / "jobs" / "flux-dev.toml").write_text(re.sub(r"(?m)^steps = \d+", "steps = 2", tiny))
    monkeypatch.chdir(tmp_path)
    printed = re.findall(r"(?m)^\$ batchgen (.*)", (ROOT / "README.md").read_text())
    commands = [
        command for command in printed if "--site" not in command
    ]  # those need a cluster: tests/slurm
    assert len(commands) >= 5
    for command in commands:
        answer = ask(*shlex.split(command, comments=True))
        assert (answer.code, answer.err) == (0, ""), command
    made = records(tmp_path / "runs" / "prompts")
    assert {(record["outcome"], record["path"], record["steps"]) for record in made} == {
        ("ok", "normal", 2)
    }
    assert all(
        record["identity"].startswith(("cpu", "cuda")) and record["denoise_s"] > 0
        for record in made
    )


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.toml")), ids=lambda path: path.name)
def test_a_ready_job_file_is_valid(path: Path) -> None:
    assert load_job(path).output.license
