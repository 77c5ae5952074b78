"""A batch script first asks whether its node sees the submitted run and may write there."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from batchgen.launch import node_check
from batchgen.launch.node_check import wrong
from batchgen.run import submissions
from batchgen.run.run import Run
from tests.support.specimens import planned


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = planned(tmp_path)
    submissions.record_submission(run.directory, [], 1)
    return run


def test_a_node_that_sees_the_run_says_nothing_and_leaves_nothing(run: Run) -> None:
    before = sorted(run.directory.root.rglob("*"))
    assert wrong(run.directory.root, run.plan.run, 1) == ""
    assert sorted(run.directory.root.rglob("*")) == before


def test_a_node_that_sees_something_else_says_what(run: Run, tmp_path: Path) -> None:
    root = run.directory.root
    missing = "is not shared with it: there is no {} here"
    plan = tmp_path / "nowhere" / ".batchgen" / "plan.json"
    assert wrong(tmp_path / "nowhere", run.plan.run, 1) == missing.format(plan)
    assert wrong(root, "abc", 1) == f"is another run's of the same name ({run.plan.run}, not abc)"
    in_an_old_copy = missing.format(run.directory.jobs / "0002.json")
    assert wrong(root, run.plan.run, 2) == in_an_old_copy
    shutil.rmtree(run.directory.logs)
    run.directory.logs.touch()
    assert wrong(root, run.plan.run, 1).startswith(
        f"cannot be used by user {os.getuid()} there: [Errno 20] Not a directory: "
    )
    run.directory.plan.write_bytes(b"[]")
    assert wrong(root, run.plan.run, 1).startswith("cannot be used by user ")


def test_the_batch_script_is_told_by_an_exit_code(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    monkeypatch.setattr(node_check, "PATIENCE_S", 0)
    monkeypatch.setattr(sys, "argv", ["node_check", str(run.directory.root), run.plan.run, "1"])
    node_check.main()
    monkeypatch.setattr(sys, "argv", ["node_check", str(run.directory.root), "abc", "1"])
    told = f"batchgen: node7: the run directory {run.directory.root} is another run's "
    with pytest.raises(SystemExit, match=f"{told}.* Put the run on a file"):
        node_check.main()
