"""Workers take living owners for dead: a shard has four owners, and each picture is made once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.protocol import recount
from tests.protocol.random_kills import RandomKills
from tests.protocol.run_copy import Drivers, RunCopy, plan, shape

WORKERS, MISJUDGE = 4, 0.3
PICTURES, SHARDS, BATCH_SIZE = 40, 2, 2


@pytest.mark.slow
@pytest.mark.parametrize("kills", [0, 5])
@pytest.mark.parametrize("seed", range(4))
def test_workers_wrongly_declared_dead_three_times_in_ten(
    tmp_path: Path, drivers: Drivers, seed: int, kills: int
):
    """Four workers over two shards: at least two are idle and steal. Some die for real as well."""
    prompts = [f"a square of {key} colours" for key in range(PICTURES)]
    settings = [*shape(BATCH_SIZE, PICTURES // SHARDS), "pattern.delay_s=0.1"]
    template = plan(tmp_path / "planned", prompts, settings)
    undisturbed = RunCopy(template, tmp_path / "undisturbed", drivers)
    copy = RunCopy(template, tmp_path / "misjudged", drivers)
    assert undisturbed.work() == 0
    workers = RandomKills(
        copy,
        random.Random(seed),
        WORKERS,
        kills,
        groups=(2, 3, 4),
        jitter_s=0.05,
        misjudge=MISJUDGE,
    )
    workers.run()
    assert recount.wrong_at_end(copy.root, prompts) == [], copy.output()
    assert recount.tar_hashes(copy.root) == recount.tar_hashes(undisturbed.root)
    attempts = {(begin["shard"], begin["attempt"]) for begin in copy.begins()}
    assert len(attempts) > SHARDS, "nobody stole: this run shows nothing"
    redone = recount.redone_groups(copy.begins(), BATCH_SIZE)
    print(f"seed {seed}, {len(workers.killed)} kills: {len(attempts)} attempts, {redone} redone")
