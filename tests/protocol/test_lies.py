"""Workers that take the living for dead three times in ten: two, three, four owners of a shard, and still exactly once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.protocol import recount
from tests.protocol.scene import Drivers, Scene, plan
from tests.protocol.storm import Storm

WORKERS, LIE = 4, 0.3
PICTURES, SHARDS, BATCH_SIZE = 40, 2, 2


@pytest.mark.slow
@pytest.mark.parametrize("kills", [0, 5])
@pytest.mark.parametrize("seed", range(4))
def test_workers_wrongly_declared_dead_three_times_in_ten(
    tmp_path: Path, drivers: Drivers, seed: int, kills: int
):
    """Four workers over two shards: two at least are idle and steal. Some die for real as well."""
    prompts = [f"a square of {key} colours" for key in range(PICTURES)]
    shape = [
        f"engine.batch_size={BATCH_SIZE}",
        f"shards.pictures={PICTURES // SHARDS}",
        "sampling.width=16",
        "sampling.height=16",
    ]
    template = plan(
        tmp_path / "planned", prompts, ["engine.kind=pattern", "pattern.delay_s=0.1", *shape]
    )
    undisturbed, scene = (
        Scene(template, tmp_path / name, drivers) for name in ("undisturbed", "lied-to")
    )
    assert undisturbed.work() == 0
    storm = Storm(
        scene, random.Random(seed), WORKERS, kills, groups=(2, 3, 4), jitter_s=0.05, lie=LIE
    )
    storm.rage()
    assert recount.wrong_at_end(scene.root, prompts) == [], scene.output()
    assert recount.tar_hashes(scene.root) == recount.tar_hashes(undisturbed.root)
    attempts = {(begin["shard"], begin["attempt"]) for begin in scene.begins()}
    assert len(attempts) > SHARDS, "nobody stole: this run shows nothing"
    redone = recount.redone_groups(scene.begins(), BATCH_SIZE)
    print(
        f"seed {seed}, {len(storm.killed)} kills: {len(attempts)} attempts, {redone} groups begun again"
    )
