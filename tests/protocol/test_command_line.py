"""The same promises with the real supervisor and the command line, real processes throughout."""

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
from tests.protocol.arena import World
from tests.protocol.disk_watch import Point
from tests.protocol.scene import PATIENCE_S, Drivers, Scene, plan
from tests.protocol.trial import Death, die, wrong_when_finished

BATCHGEN = Path(sys.executable).with_name("batchgen")
KILLS, PICTURES, SHARDS, BATCH_SIZE = 10, 120, 6, 2


@pytest.fixture
def slow_run(tmp_path: Path, drivers: Drivers) -> tuple[Path, list[str], dict[str, str]]:
    """A planned run that takes two workers some seconds, its prompts, and the tar hashes of an undisturbed one."""
    prompts = [f"a ring of {key} colours" for key in range(PICTURES)]
    shape = [
        f"engine.batch_size={BATCH_SIZE}",
        f"shards.pictures={PICTURES // SHARDS}",
        "sampling.width=16",
        "sampling.height=16",
    ]
    slow = plan(
        tmp_path / "slow",
        prompts,
        ["engine.kind=pattern", "run.workers=2", "pattern.delay_s=0.15", *shape],
    )
    undisturbed = Scene(
        plan(tmp_path / "fast", prompts, ["engine.kind=pattern", *shape]),
        tmp_path / "undisturbed",
        drivers,
    )
    assert undisturbed.work() == 0
    return slow, prompts, recount.tar_hashes(undisturbed.root)


def resume(root: Path, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [BATCHGEN, "resume", root, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def at_work(root: Path) -> set[int]:
    """Process ids of the workers that have begun a group: the others still import, and killing those shows nothing."""
    begun = set()
    for journal in root.glob(".batchgen/partial/*/*.journal"):
        try:
            if b'"begin"' in journal.read_bytes():
                claim = (
                    root
                    / ".batchgen/claims"
                    / journal.parent.name
                    / journal.name.removesuffix(".journal")
                )
                begun.add(json.loads(claim.read_text())["owner"]["pid"])
        except FileNotFoundError:  # published meanwhile
            continue
    return begun


@pytest.mark.slow
def test_the_supervisor_replaces_what_is_killed_until_all_is_made(
    slow_run: tuple[Path, list[str], dict[str, str]],
):
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
    told, _ = command.communicate(timeout=PATIENCE_S)
    assert len(killed) == KILLS, told
    assert command.returncode == 0, told
    assert recount.wrong_at_end(root, prompts) == []
    assert recount.tar_hashes(root) == reference


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("--add", "1")])
def test_two_resumes_at_once(
    slow_run: tuple[Path, list[str], dict[str, str]], flags: tuple[str, ...]
):
    """Two supervisors, four workers; without --add the later may be told that the run is running already."""
    root, prompts, reference = slow_run
    commands = [resume(root, *flags) for _ in range(2)]
    told = [command.communicate(timeout=PATIENCE_S)[0] for command in commands]
    codes = sorted(command.returncode for command in commands)
    assert codes[0] == 0, told
    assert codes[1] == 0 or any("bring more workers with" in text for text in told), told
    assert len(list(root.glob(".batchgen/jobs/*/supervisor.json"))) == codes.count(0)
    assert not flags or codes == [0, 0]
    assert recount.wrong_at_end(root, prompts) == []
    assert recount.tar_hashes(root) == reference


def test_resume_completes_what_died_between_its_commit_and_its_roll_forward_without_a_worker(
    world: World,
):
    scene = world.scene()
    assert die(scene, Death(Point("link", ".batchgen/done/000/000002.json", 0))) == []
    command = resume(scene.root)
    told, _ = command.communicate(timeout=PATIENCE_S)
    assert command.returncode == 0, told
    assert "workers started" not in told
    assert wrong_when_finished(world, scene) == []
