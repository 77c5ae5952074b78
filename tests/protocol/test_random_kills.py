"""The real engine, killed a hundred times at random, makes every picture once.

The tars are those of a run that nobody disturbed.
"""

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
from tests.protocol.random_kills import RandomKills
from tests.protocol.run_copy import PATIENCE_S, Drivers, RunCopy, plan
from tests.protocol.trial import GROUPS_A_DEATH
from tests.support import ROOT

KILLS, WORKERS, BATCH_SIZE = 100, 2, 2
# A worker lives until it has begun one of these numbers of groups, chosen at random, …
GROUPS = (1, 2, 3, 3, 4, 4, 5, 5, 6, 6)
# … and up to so much longer: about a group's time.
JITTER_S = 0.04
# Enough that no machine is through with them before the last kill.
PICTURES, SHARD = 960, 24


@pytest.fixture(scope="module")
def torch_drivers() -> Iterator[Drivers]:
    started = Drivers("torch")
    yield started
    started.close()


class Reader:
    """A process that reads a run's tars while it is made (reader.py)."""

    def __init__(self, root: Path) -> None:
        command, pipe = [sys.executable, "-m", "tests.protocol.reader", str(root)], subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT)

    def close(self) -> list[dict[str, Any]]:
        """End the reader; every line it printed."""
        output, _ = self._process.communicate(timeout=PATIENCE_S)
        assert self._process.returncode == 0
        return [json.loads(line) for line in output.splitlines()]


@pytest.mark.slow
def test_a_hundred_kills_of_the_real_engine(tmp_path: Path, torch_drivers: Drivers):
    prompts = [f"a red circle and {key} blue squares" for key in range(PICTURES)]
    small = ["sampling.steps=2", "sampling.width=64", "sampling.height=64"]
    groups = [f"engine.batch_size={BATCH_SIZE}", f"shards.pictures={SHARD}"]
    template = plan(tmp_path / "planned", prompts, ["engine.device=cpu", *groups, *small])
    undisturbed = RunCopy(template, tmp_path / "undisturbed", torch_drivers)
    disturbed = RunCopy(template, tmp_path / "disturbed", torch_drivers)
    RandomKills(undisturbed, random.Random(0), WORKERS).run()
    reader = Reader(disturbed.root)
    workers = RandomKills(disturbed, random.Random(1), WORKERS, KILLS, GROUPS, JITTER_S)
    try:
        workers.run()
    finally:
        lines = reader.close()
    assert len(workers.killed) == KILLS
    for copy in (undisturbed, disturbed):
        blamed = _blamed(copy, workers.killed)
        assert recount.wrong_at_end(copy.root, prompts, blamed) == [], copy.output()
    assert _differences(undisturbed.root, disturbed.root) == []
    redone = recount.redone_groups(disturbed.begins(), BATCH_SIZE)
    assert redone <= GROUPS_A_DEATH * KILLS
    _check_reader(lines, disturbed.root)
    paths = Counter(row["path"] for row in recount.records(disturbed.root))
    print(f"{KILLS} kills, {redone} groups redone, {dict(paths)}, read {lines[-1]['rounds']} times")


def _blamed(copy: RunCopy, killed: list[int]) -> frozenset[int]:
    """Keys of pictures recorded as failed.

    Two kills may hit one innocent picture while it is alone in flight. Then, and only then, it is
    recorded so.
    """
    blamed = [row for row in recount.records(copy.root) if row["outcome"] == "failed"]
    outcomes = {(row["cause"], row["path"]) for row in blamed}
    assert outcomes <= {("killed its worker", "solo")}, blamed
    last = {begin["pid"]: begin for begin in copy.begins()}
    begins = [last[pid] for pid in killed if pid in last and last[pid]["count"] == 1]
    alone = Counter((begin["shard"], begin["at"]) for begin in begins)
    kills = [alone[row["shard"], row["index"] % SHARD] for row in blamed]
    assert all(number >= 2 for number in kills), (blamed, alone)
    return frozenset(row["index"] for row in blamed)


def _differences(expected: Path, found: Path) -> list[str]:
    """Differences between the tars of two runs, byte by byte.

    A tar with pictures that were made one by one after deaths is compared sample by sample, and
    those pictures without their pixels.
    """
    solo = {row["index"] for row in recount.records(found) if row["path"] != "normal"}
    hashes, others = recount.tar_hashes(expected), recount.tar_hashes(found)
    wrong = []
    for name in [name for name in hashes if others[name] != hashes[name]]:
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


def _check_reader(lines: list[dict[str, Any]], root: Path) -> None:
    """The reader saw shards appear, and never an error, a short shard, or a tar that changed."""
    tars = lines[:-1]
    assert not [line for line in tars if "error" in line]
    assert {line["tar"]: line["sha256"] for line in tars} == recount.tar_hashes(root)
    assert len(tars) == len({line["tar"] for line in tars}), "a tar changed under the reader"
    assert lines[-1]["rounds"] > len(tars)
