"""One small planned run with everything a shard can be, the forking process, and an undisturbed run to compare with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from tests.protocol import recount
from tests.protocol.arena import BATCH_SIZE, SHARD, World
from tests.protocol.driver import UNPAINTABLE
from tests.protocol.scene import Drivers, Scene, plan


@pytest.fixture(scope="session")
def drivers() -> Iterator[Drivers]:
    started = Drivers()
    yield started
    started.close()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, drivers: Drivers) -> Iterator[World]:
    """Three shards: three groups; three groups and in them a picture that fails; a short one without one good picture, so without a tar."""
    failures = frozenset({8, 12, 13})
    prompts = [
        UNPAINTABLE if key in failures else f"a circle of {key} colours" for key in range(14)
    ]
    shape = [
        f"engine.batch_size={BATCH_SIZE}",
        f"shards.pictures={SHARD}",
        "sampling.width=16",
        "sampling.height=16",
    ]
    folder = tmp_path_factory.mktemp("protocol")
    template = plan(folder / "planned", prompts, ["engine.kind=pattern", *shape])
    numbers = count()

    def scene() -> Scene:
        return Scene(template, folder / f"{next(numbers):05d}", drivers)

    undisturbed = scene()
    assert undisturbed.work() == 0, undisturbed.output()
    assert recount.wrong_at_end(undisturbed.root, prompts, failures) == []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        yield World(
            template, prompts, failures, recount.tar_hashes(undisturbed.root), scene, threads
        )
