"""The README's commands run as they are printed, and the ready job files are valid."""

import re
import shlex
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from typer.main import get_command

from batchgen.cli import app
from batchgen.settings.job import load_job
from tests.support.rehearsal import ask, records

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_its_commands_make_watch_and_verify_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the place of FLUX.1-dev's job stands one of the embedded model, with two steps."""
    prompts = pq.read_table(ROOT / "manifests" / "prompts.parquet").slice(0, 4)
    pq.write_table(prompts, tmp_path / "prompts.parquet")
    tiny = (ROOT / "jobs" / "tiny.toml").read_text()
    (tmp_path / "flux-dev").write_text(re.sub(r"(?m)^steps = \d+", "steps = 2", tiny))
    monkeypatch.chdir(tmp_path)
    readme = (ROOT / "README.md").read_text()
    printed = re.findall(r"(?m)^\$ batchgen (.*)", readme)
    # Those with --site need a cluster: tests/cluster runs them.
    commands = [command for command in printed if "--site" not in command]
    assert len(commands) >= 5
    for command in commands:
        answer = ask(*shlex.split(command, comments=True))
        assert (answer.code, answer.err) == (0, ""), command
    made = records(tmp_path / "runs" / "prompts")
    for record in made:
        assert (record["outcome"], record["path"], record["steps"]) == ("ok", "normal", 2)
        assert record["identity"].startswith(("cpu", "cuda"))
        assert record["device_s"] > 0
    training, again = re.findall(r"(?ms)^```python\n(import batchgen\n.*?)^```", readme)
    finished = {}
    exec(again.replace('"flux-dev"', '"flux-dev", out="from python"'), finished)
    assert finished["run"].status().ok == len(made)
    exec(training, finished)
    seen = [prompt for _, prompts in finished["batches"] for prompt in prompts]
    assert sorted(seen) == sorted(record["prompt"] for record in made)
    (block,) = re.findall(r"(?ms)^```python\n(import webdataset.*?)^from datasets", readme)
    exec(block, finished)
    assert len(finished["tars"]) == len({record["tar"] for record in made})
    (query,) = re.findall(r"(?ms)^```sql\n(.*?)^```", readme)
    rows = {
        (one["tar"], f"{one['key']}.jpg", one["prompt"], one["device_s"]): one["device_s"]
        for one in made
    }
    dearest = duckdb.sql(query).fetchall()
    assert set(dearest) == set(rows)
    assert dearest[0][3] == max(rows.values())
    (block,) = re.findall(r"(?ms)^```python\n(import pyarrow.dataset.*?)^```", readme)
    exec(block, finished)
    assert finished["records"].num_rows == len(made)


def test_verbs_and_options_that_it_names_exist() -> None:
    """Also those in sentences and tables."""
    readme = (ROOT / "README.md").read_text()
    code = re.findall(r"`([^`\n]*)`", re.sub(r"(?s)```.*?```", "", readme))
    code += re.findall(r"(?m)^\$ (batchgen .*)", readme)
    verbs = get_command(app).commands
    known = {option for verb in verbs.values() for one in verb.params for option in one.opts}
    named = [shlex.split(one, comments=True) for one in code if re.match(r"batchgen [a-z]", one)]
    assert len(named) > 20
    for words in named:
        verb = verbs[words[1]]
        own = {option for one in verb.params for option in one.opts}
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= own, words
    alone = {one.split()[0] for one in code if one.startswith("--")}
    assert alone <= known, "options in sentences"


def test_what_it_links_to_is_there() -> None:
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
            assert link.startswith("http") or (page.parent / link).exists(), (page, link)


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.toml")), ids=lambda path: path.name)
def test_a_ready_job_file_is_valid(path: Path) -> None:
    assert load_job(path).output.license
