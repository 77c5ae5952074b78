"""One small planned run with everything a shard can be, the forking process, and an undisturbed run to compare with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
import recount
from driver import UNPAINTABLE
from scene import Drivers, Scene, plan

BATCH_SIZE, SHARD = 2, 6


@dataclass(frozen=True)
class World:
    """A planned run and what must come of it."""

    template: Path
    prompts: list[str]
    failures: frozenset[int]
    reference: dict[str, str]  # tar hashes of an undisturbed run
    scene: Callable[[], Scene]  # a fresh copy


@pytest.fixture(scope="session")
def drivers() -> Iterator[Drivers]:
    started = Drivers()
    yield started
    started.close()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, drivers: Drivers) -> World:
    """Three shards: three groups; three groups and in them a picture that fails; a short one without one good picture, so without a tar."""
    failures = frozenset({8, 12, 13})
    prompts = [UNPAINTABLE if key in failures else f"a circle of {key} colours" for key in range(14)]
    settings = ["engine.kind=pattern", f"engine.batch_size={BATCH_SIZE}", f"shards.pictures={SHARD}", "sampling.width=16", "sampling.height=16"]
    folder = tmp_path_factory.mktemp("protocol")
    template = plan(folder / "planned", prompts, settings)
    numbers = count()

    def scene() -> Scene:
        copy = folder / f"{next(numbers):05d}"
        copy.mkdir()
        return Scene(template, copy, drivers)

    undisturbed = scene()
    assert undisturbed.work() == 0, undisturbed.output()
    assert recount.wrong_at_end(undisturbed.root, prompts, failures) == []
    return World(template, prompts, failures, recount.tar_hashes(undisturbed.root), scene)
