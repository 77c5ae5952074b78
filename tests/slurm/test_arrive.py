"""Before anything else a node is asked whether it sees the run that was submitted, and may write there."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from specimens import planned

from batchgen import arrive, submissions
from batchgen.arrive import wrong
from batchgen.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = planned(tmp_path)
    submissions.record(run.store, [], 1)
    return run


def test_a_node_that_sees_the_run_says_nothing_and_leaves_nothing(run: Run) -> None:
    before = sorted(run.store.root.rglob("*"))
    assert wrong(run.store.root, run.plan.run, 1) == ""
    assert sorted(run.store.root.rglob("*")) == before


def test_a_node_that_sees_something_else_says_what(run: Run, tmp_path: Path) -> None:
    root = run.store.root
    assert wrong(tmp_path / "nowhere", run.plan.run, 1) == f"is not shared with it: there is no {tmp_path}/nowhere/.batchgen/plan.json here"
    assert wrong(root, "abc", 1) == f"is another run's of the same name ({run.plan.run}, not abc)"
    assert wrong(root, run.plan.run, 2) == f"is not shared with it: there is no {root}/.batchgen/jobs/0002.json here", "an old copy"
    shutil.rmtree(run.store.logs)
    run.store.logs.touch()
    assert wrong(root, run.plan.run, 1).startswith(f"cannot be used by user {os.getuid()} there: [Errno 20] Not a directory: ")
    run.store.plan.write_bytes(b"[]")
    assert wrong(root, run.plan.run, 1).startswith("cannot be used by user ")


def test_the_batch_script_is_told_by_an_exit_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "node7")
    monkeypatch.setattr(arrive, "PATIENCE_S", 0)
    monkeypatch.setattr(sys, "argv", ["arrive", str(run.store.root), run.plan.run, "1"])
    arrive.main()
    monkeypatch.setattr(sys, "argv", ["arrive", str(run.store.root), "abc", "1"])
    with pytest.raises(SystemExit, match=rf"batchgen: node7: the run directory {run.store.root} is another run's .* Put the run on a file"):
        arrive.main()
