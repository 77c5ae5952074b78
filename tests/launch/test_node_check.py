"""Before anything else a node is asked whether it sees the run that was submitted, and may write there."""

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
    assert (
        wrong(tmp_path / "nowhere", run.plan.run, 1)
        == f"is not shared with it: there is no {tmp_path}/nowhere/.batchgen/plan.json here"
    )
    assert wrong(root, "abc", 1) == f"is another run's of the same name ({run.plan.run}, not abc)"
    assert (
        wrong(root, run.plan.run, 2)
        == f"is not shared with it: there is no {root}/.batchgen/jobs/0002.json here"
    ), "an old copy"
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
    monkeypatch.setattr(sys, "argv", ["arrive", str(run.directory.root), run.plan.run, "1"])
    node_check.main()
    monkeypatch.setattr(sys, "argv", ["arrive", str(run.directory.root), "abc", "1"])
    with pytest.raises(
        SystemExit,
        match=rf"batchgen: node7: the run directory {run.directory.root} is another run's .* Put the run on a file",
    ):
        node_check.main()
