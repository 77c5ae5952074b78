"""SLURM's absence matters only for a site; its silence is told."""

import os
from pathlib import Path

import pytest

from batchgen.doctor.finding import Finding
from batchgen.doctor.scheduler import scheduler
from batchgen.slurm.nodes import Node, list_nodes

CONFIG = "AccountingStorageType   = accounting_storage/{}"


def look(*, needed: bool) -> dict[str, Finding]:
    return {finding.name: finding for finding in scheduler(needed=needed)}


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SLURM's commands, which answer what a test wants."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin:/bin")
    for name in ("sbatch", "srun", "squeue", "scancel", "sinfo", "scontrol"):
        say(tmp_path / name, "exit 1")
    return tmp_path


def say(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_machine_without_slurm_lacks_it_only_for_a_site(no_driver: None) -> None:
    assert look(needed=False)["slurm"].state == "ok"
    told = look(needed=True)["slurm"]
    assert told.state == "failed"
    assert told.found == "no sbatch, srun, squeue, scontrol, scancel, sinfo here"


@pytest.mark.parametrize(("kind", "told"), [("none", "off"), ("slurmdbd", "on (accounting_stora")])
def test_a_controller_that_answers_is_told_with_its_accounting(
    kind: str, told: str, commands: Path
) -> None:
    ping = "echo 'Slurmctld(primary) at head is UP'"
    say(commands / "scontrol", f'[ "$1" = ping ] && {ping} || echo "{CONFIG.format(kind)}"')
    found = look(needed=True)
    assert found["slurm"].found == "Slurmctld(primary) at head is UP"
    assert found["accounting"].found.startswith(told)


def test_a_controller_that_is_down_fails_a_site(commands: Path) -> None:
    say(commands / "scontrol", "echo 'Slurmctld(primary) at head is DOWN' >&2; exit 1")
    told = look(needed=True)["slurm"]
    assert (told.state, "at head is DOWN" in told.found) == ("failed", True)
    assert look(needed=False)["slurm"].state == "ok"


def test_the_nodes_of_a_partition_are_listed_with_why_they_are_away(commands: Path) -> None:
    lines = [
        "n1|idle|gpu*|none",
        "n2|down*|gpu*|Not responding",
        "n3|drain|hi|bad | fan",
        "n1|idle|hi|none",
    ]
    say(commands / "sinfo", "\n".join(f"echo '{line}'" for line in lines))
    nodes = [Node("n1", "idle", ""), Node("n2", "down*", "Not responding")]
    assert list_nodes(None) == nodes, "of the default partition"
    assert list_nodes("any") == [*nodes, Node("n3", "drain", "bad | fan")]
    assert [node.away for node in list_nodes("any")] == [False, True, True]
