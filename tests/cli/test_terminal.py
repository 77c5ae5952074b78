"""What a terminal does to a run.

Ctrl-C stops it gracefully, a second Ctrl-C at once, and a lost terminal not at all.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.rehearsal import (
    alive,
    ask,
    owners,
    records,
    settings,
    status,
    wait_until,
    write_prompts,
)
from tests.support.terminal import Terminal, open_terminal

pytestmark = pytest.mark.slow

Submit = Callable[..., Terminal]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """The run directory of the test. Processes that work on it after the test are ended."""
    yield tmp_path / "run"
    for role in ("supervisor", "worker"):
        for pid in owners(tmp_path / "run", role):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def submit(run: Path) -> Submit:
    """Submits 40 pictures in a terminal: two workers, groups of four, `delay_s` for each group."""

    def type_in(delay_s: float, *words: str) -> Terminal:
        file = write_prompts(run.with_name("prompts.parquet"), [f"a cat {n}" for n in range(40)])
        sizes = {"engine__batch_size": 4, "shards__pictures": 20, "run__workers": 2}
        command = [sys.executable, "-m", "batchgen", "submit", str(file), "--rehearse"]
        command += ["--out", str(run), *words, *settings(pattern__delay_s=delay_s, **sizes)]
        return open_terminal(command)

    return type_in


def test_ctrl_c_finishes_the_groups_in_flight_and_resume_makes_the_rest(
    submit: Submit, run: Path
) -> None:
    terminal = submit(2.0)
    terminal.look("running: 2 workers")
    terminal.look("[/]min on average")
    terminal.press_ctrl_c()
    terminal.read("ends the workers at once")
    assert terminal.exit_code() == 3
    assert (
        "Stopping after the groups in flight; Ctrl-C again ends the workers at once."
        in terminal.shown
    )
    for told in ("/min now", "/min on average", " left", "stopped: user: asked to stop"):
        assert told in terminal.shown
    assert f"next: batchgen resume {run}" in terminal.shown
    told = status(run)
    assert told["in_progress"] % 4 == 0
    assert 4 <= told["in_progress"] + told["ok"] < 40
    wait_until(lambda: not any(alive(pid) for pid in owners(run, "worker")))
    assert ask("resume", run, *settings(pattern__delay_s=0)).code == 0
    assert {(record["outcome"], record["path"]) for record in records(run)} == {("ok", "normal")}


def test_a_second_ctrl_c_ends_the_workers_at_once(submit: Submit, run: Path) -> None:
    terminal = submit(300.0)
    terminal.look("running: 2 workers")
    terminal.press_ctrl_c()
    terminal.read("Ctrl-C again")
    pressed = time.time()
    terminal.press_ctrl_c()
    assert terminal.exit_code() == 3
    assert time.time() - pressed < 30
    assert "Ending the workers now." in terminal.shown
    wait_until(lambda: not any(alive(pid) for pid in owners(run, "worker")))
    assert status(run)["state"] == "stopped"


def test_a_lost_terminal_does_not_stop_the_run(submit: Submit, run: Path) -> None:
    terminal = submit(0.5)
    terminal.look("running: 2 workers")
    terminal.hang_up()
    assert os.waitstatus_to_exitcode(os.waitpid(terminal.pid, 0)[1]) != 0
    wait_until(lambda: status(run)["state"] not in ("queued", "running"))
    assert status(run)["state"] == "complete"


def test_a_detached_run_is_watched_from_elsewhere_and_refuses_more_workers(
    submit: Submit, run: Path
) -> None:
    terminal = submit(1.0, "--detach")
    assert terminal.exit_code() == 0
    assert f"batchgen status {run} --watch" in terminal.shown
    told = status(run)
    assert told["state"] in ("queued", "running")
    wait_until(lambda: status(run)["state"] == "running")
    refused = ask("resume", run)
    assert refused.code == 2
    assert f"{run} is running (" in refused.err
    assert f"batchgen resume {run} --add" in refused.err
    assert ask("resume", run, "--add", "1", "--detach").code == 0
    watched = ask("status", run, "--watch")
    assert watched.code == 0
    assert "40 ok, 0 failed, 0 pending" in watched.out
    assert len(list(run.glob(".batchgen/jobs/*.json"))) == 2
