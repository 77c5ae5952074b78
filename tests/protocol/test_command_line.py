"""The same promises with the real supervisor and the command line; all processes are real."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.protocol import recount
from tests.protocol.disk_watch import Point
from tests.protocol.planned_run import PlannedRun
from tests.protocol.run_copy import PATIENCE_S, Drivers, RunCopy, plan, shape
from tests.protocol.trial import Death, die, wrong_when_finished

BATCHGEN = Path(sys.executable).with_name("batchgen")
KILLS, PICTURES, SHARDS, BATCH_SIZE = 10, 120, 6, 2
SlowRun = tuple[Path, list[str], dict[str, str]]


@pytest.fixture
def slow_run(tmp_path: Path, drivers: Drivers) -> SlowRun:
    """A planned run that takes two workers some seconds, its prompts, and its right tar hashes."""
    prompts = [f"a ring of {key} colours" for key in range(PICTURES)]
    settings = shape(BATCH_SIZE, PICTURES // SHARDS)
    slowly = [*settings, "run.workers=2", "pattern.delay_s=0.15"]
    slow = plan(tmp_path / "slow", prompts, slowly)
    fast = plan(tmp_path / "fast", prompts, settings)
    undisturbed = RunCopy(fast, tmp_path / "undisturbed", drivers)
    assert undisturbed.work() == 0
    return slow, prompts, recount.tar_hashes(undisturbed.root)


def resume(root: Path, *flags: str) -> subprocess.Popen[str]:
    command = [BATCHGEN, "resume", root, *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def at_work(root: Path) -> set[int]:
    """Process ids of the workers that have begun a group. The others still import."""
    begun = set()
    for journal in root.glob(".batchgen/partial/*/*.journal"):
        claims = root / ".batchgen/claims" / journal.parent.name
        try:
            if b'"begin"' in journal.read_bytes():
                claim = json.loads((claims / journal.stem).read_text())
                begun.add(claim["owner"]["pid"])
        except FileNotFoundError:  # published meanwhile
            continue
    return begun


@pytest.mark.slow
def test_the_supervisor_replaces_what_is_killed_until_all_is_made(slow_run: SlowRun):
    root, prompts, reference = slow_run
    command, chance, killed = resume(root), random.Random(0), set[int]()
    until = time.time() + PATIENCE_S
    while len(killed) < KILLS and command.poll() is None and time.time() < until:
        victims = sorted(at_work(root) - killed)
        time.sleep(chance.uniform(0, 0.3))
        if victims:
            victim = chance.choice(victims)
            killed.add(victim)
            os.kill(victim, signal.SIGKILL)
    output, _ = command.communicate(timeout=PATIENCE_S)
    assert len(killed) == KILLS, output
    assert command.returncode == 0, output
    # Where the kills meet one picture again and again, it is blamed: two kills in its group, two
    # more alone. A slow machine makes that likelier.
    rows = recount.records(root)
    blamed = frozenset(row["index"] for row in rows if row["cause"] == "killed its worker")
    assert 4 * len(blamed) <= KILLS, output
    assert recount.wrong_at_end(root, prompts, blamed) == []
    assert blamed or recount.tar_hashes(root) == reference


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--add", "1")])
def test_two_resumes_at_once(slow_run: SlowRun, flags: tuple[str, ...]):
    """Two supervisors, four workers. Without --add the later one may be refused."""
    root, prompts, reference = slow_run
    commands = [resume(root, *flags) for _ in range(2)]
    outputs = [command.communicate(timeout=PATIENCE_S)[0] for command in commands]
    codes = sorted(command.returncode for command in commands)
    assert codes[0] == 0, outputs
    assert codes[1] == 0 or any("bring more workers with" in text for text in outputs), outputs
    assert len(list(root.glob(".batchgen/jobs/*/supervisor.json"))) == codes.count(0)
    assert not flags or codes == [0, 0]
    assert recount.wrong_at_end(root, prompts) == []
    assert recount.tar_hashes(root) == reference


@pytest.mark.slow
def test_resume_completes_a_commit_without_roll_forward_and_starts_no_worker(
    planned_run: PlannedRun,
):
    copy = planned_run.copy()
    assert die(copy, Death(Point("link", ".batchgen/done/000/000002.json", 0))) == []
    command = resume(copy.root)
    output, _ = command.communicate(timeout=PATIENCE_S)
    assert command.returncode == 0, output
    assert "workers started" not in output
    assert wrong_when_finished(planned_run, copy) == []
