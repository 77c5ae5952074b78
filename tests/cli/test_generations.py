"""Verbs that go on with a complete run, as people type them."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchgen
from tests.support.rehearsal import alive, ask, owners, rehearse, status, wait_until, write_prompts
from tests.test_old_runs import old  # noqa: F401  a fixture

PROMPTS = [f"a cat {n}{' RAISE' if n in (3, 9, 10) else ''}" for n in range(16)]


@pytest.mark.slow
def test_a_trial_its_rest_failures_more_rows_and_a_remake(tmp_path: Path) -> None:
    run = tmp_path / "run"
    trial = rehearse(run, PROMPTS, "--limit", "8")
    assert "A trial: 8 pictures of the manifest are left." in trial.out
    assert f"the rest       batchgen resume {run} --rest" in trial.out
    assert rehearse(run, PROMPTS, "--limit", "9").code == 2
    whole = rehearse(run, PROMPTS)
    assert (status(run)["ok"], status(run)["failed"]) == (13, 3)
    assert f"failed ones    batchgen resume {run} --retry-failed" in whole.out
    assert "Generation 2: 3 pictures in" in ask("resume", run, "--retry-failed").out
    more = write_prompts(tmp_path / "more.parquet", ["a fox", "a hen"])
    assert "2 pictures of 2 rows more." in ask("extend", run, more).out
    answer = ask("remake", run, "--keys", "000000001,17")
    assert answer.code == 0
    assert "18 ok, 0 failed, 0 pending of 18 pictures" in answer.out
    assert ask("verify", run, "--deep").code == 0
    rows = [json.loads(line) for line in ask("records", run).out.splitlines()]
    assert sorted(row["index"] for row in rows) == list(range(18))
    generations = {row["index"]: row["generation"] for row in rows}
    assert [generations[key] for key in (0, 1, 3, 8, 16, 17)] == [0, 4, 2, 1, 3, 4]
    assert ask("submit", tmp_path / "run-prompts.parquet", "--rehearse", "--out", run).code == 2


@pytest.mark.slow
def test_a_damaged_shard_of_each_generation_is_repaired(tmp_path: Path) -> None:
    run = tmp_path / "run"
    rehearse(run, PROMPTS, shards__pictures=8)
    ask("resume", run, "--retry-failed")
    wait_until(lambda: not any(alive(pid) for pid in owners(run, "supervisor")))
    for shard in (0, 2):
        (run / f"metadata/{shard:06d}.parquet").unlink()
    assert status(run)["state"] == "stalled"
    assert ask("verify", run, "--repair").code == 0
    assert ask("resume", run).code == 0
    assert (status(run)["ok"], status(run)["failed"]) == (16, 0)
    assert ask("verify", run, "--deep").code == 0


@pytest.mark.slow
def test_a_run_of_0_1_0_is_extended_and_keeps_its_columns(old: Path) -> None:  # noqa: F811
    run = old / "half"
    assert ask("resume", run, "--set", "pattern.delay_s=0").code == 0
    before = {path.name: path.read_bytes() for path in run.glob("metadata/*")}
    plan = json.loads((run / ".batchgen/plan.json").read_bytes())
    first = pq.read_table(plan["sources"][0]["path"])
    more = first.slice(0, 2)
    if "id" in more.column_names:
        more = more.set_column(more.column_names.index("id"), "id", pa.array(["n1", "n2"]))
    pq.write_table(more, old / "more.parquet")
    answer = ask("extend", run, old / "more.parquet")
    assert answer.code == 0, answer
    assert status(run)["state"] == "complete"
    assert ask("verify", run, "--deep").code == 0
    after = {path.name: path.read_bytes() for path in run.glob("metadata/*")}
    assert before.items() < after.items()
    assert {str(pq.read_schema(path).field("key").type) for path in run.glob("metadata/*")} == {
        "int64"
    }
    refused = ask("remake", old / "painted", "--keys", "0")
    assert (refused.code, status(old / "painted")["state"]) == (2, "complete")
    assert "the pictures to come would be others than those that are there" in refused.err
    table = batchgen.attach(run).records(["key", "generation"])
    assert sorted(set(table["generation"].to_pylist())) == [0, 1]


def test_wishes_that_exclude_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "run/.batchgen").mkdir(parents=True)
    (tmp_path / "run/.batchgen/plan.json").touch()
    answer = ask("resume", tmp_path / "run", "--rest", "--retry-failed")
    assert answer.code == 2
    assert "give one, and the other when it is done" in answer.err


def test_python_goes_on_with_runs_too(tmp_path: Path) -> None:
    """What the functions do is tested above; this is their own path to the first refusal."""
    with pytest.raises(batchgen.errors.OutputError):
        batchgen.extend(tmp_path, ["more.parquet"])
    with pytest.raises(batchgen.errors.OutputError):
        batchgen.remake(tmp_path, ["0"])
    shutil.rmtree(tmp_path)
