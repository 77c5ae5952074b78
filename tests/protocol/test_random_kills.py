"""The real engine, killed a hundred times at random: every picture once, and the tars of a run that nobody disturbed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.protocol import recount
from tests.protocol.scene import PATIENCE_S, Drivers, Scene, plan
from tests.protocol.storm import Storm
from tests.protocol.trial import GROUPS_A_DEATH
from tests.support import ROOT

KILLS, WORKERS, BATCH_SIZE = 100, 2, 2
GROUPS = (
    1,
    2,
    3,
    3,
    4,
    4,
    5,
    5,
    6,
    6,
)  # a worker lives until it has begun so many, chosen at random
JITTER_S = 0.04  # and so much longer: about a group's time
PICTURES, SHARD = 960, 24  # enough that no machine is through with them before the last kill


@pytest.fixture(scope="module")
def torch_drivers() -> Iterator[Drivers]:
    started = Drivers("torch")
    yield started
    started.close()


class Reader:
    """reader.py beside a run."""

    def __init__(self, root: Path) -> None:
        command, pipe = [sys.executable, "-m", "tests.protocol.reader", str(root)], subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT)

    def close(self) -> list[dict[str, Any]]:
        """All it told."""
        told, _ = self._process.communicate(timeout=PATIENCE_S)
        assert self._process.returncode == 0
        return [json.loads(line) for line in told.splitlines()]


@pytest.mark.slow
def test_a_hundred_kills_of_the_real_engine(tmp_path: Path, torch_drivers: Drivers):
    prompts = [f"a red circle and {key} blue squares" for key in range(PICTURES)]
    small = ["sampling.steps=2", "sampling.width=64", "sampling.height=64"]
    settings = [
        "engine.device=cpu",
        f"engine.batch_size={BATCH_SIZE}",
        f"shards.pictures={SHARD}",
        *small,
    ]
    template = plan(tmp_path / "planned", prompts, settings)
    undisturbed, disturbed = (
        Scene(template, tmp_path / name, torch_drivers) for name in ("undisturbed", "disturbed")
    )
    Storm(undisturbed, random.Random(0), WORKERS).rage()
    reader = Reader(disturbed.root)
    storm = Storm(disturbed, random.Random(1), WORKERS, KILLS, GROUPS, JITTER_S)
    try:
        storm.rage()
    finally:
        told = reader.close()
    assert len(storm.killed) == KILLS
    for scene in (undisturbed, disturbed):
        condemned = _condemned(scene, storm.killed)
        assert recount.wrong_at_end(scene.root, prompts, condemned) == [], scene.output()
    assert _differences(undisturbed.root, disturbed.root) == []
    redone = recount.redone_groups(disturbed.begins(), BATCH_SIZE)
    assert redone <= GROUPS_A_DEATH * KILLS
    _check_reader(told, disturbed.root)
    paths = Counter(row["path"] for row in recount.records(disturbed.root))
    print(
        f"{KILLS} kills, {redone} groups begun again, {dict(paths)}, the reader looked {told[-1]['rounds']} times"
    )


def _condemned(scene: Scene, killed: list[int]) -> frozenset[int]:
    """Keys recorded as failed. Two kills may hit one innocent picture that was alone in flight: then, and only then, it is recorded so."""
    condemned = [row for row in recount.records(scene.root) if row["outcome"] == "failed"]
    assert all(
        row["cause"] == "killed its worker" and row["path"] == "solo" for row in condemned
    ), condemned
    last = {begin["pid"]: begin for begin in scene.begins()}
    alone = Counter(
        (last[pid]["shard"], last[pid]["at"])
        for pid in killed
        if pid in last and last[pid]["count"] == 1
    )
    assert all(alone[row["shard"], row["key"] % SHARD] >= 2 for row in condemned), (
        condemned,
        alone,
    )
    return frozenset(row["key"] for row in condemned)


def _differences(expected: Path, found: Path) -> list[str]:
    """Tars byte by byte; where pictures were made one by one after deaths (records say so), sample by sample without their pixels."""
    solo = {row["key"] for row in recount.records(found) if row["path"] != "normal"}
    different = [
        name
        for name, sha in recount.tar_hashes(expected).items()
        if recount.tar_hashes(found)[name] != sha
    ]
    wrong = []
    for name in different:
        before, after = (recount.samples(root / "data" / name) for root in (expected, found))
        if not solo & before.keys():
            wrong.append(f"{name} has another hash, although every picture took the normal path")
        for key in before.keys() & after.keys():
            mine, theirs = (dict(parts) for parts in (before[key], after[key]))
            if key in solo:
                del mine["jpg"], theirs["jpg"]
            if mine != theirs:
                wrong.append(f"{name}: picture {key} differs")
    return wrong


def _check_reader(told: list[dict[str, Any]], root: Path) -> None:
    """It never saw an error, a short shard, or a tar that changed; and it saw shards appear."""
    tars = told[:-1]
    assert not [line for line in tars if "error" in line]
    assert {line["tar"]: line["sha256"] for line in tars} == recount.tar_hashes(root)
    assert len(tars) == len({line["tar"] for line in tars}), "a tar changed under the reader"
    assert told[-1]["rounds"] > len(tars)
