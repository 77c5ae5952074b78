"""A small planned run with every kind of shard, and the processes that fork its workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from tests.protocol import recount
from tests.protocol.driver import UNPAINTABLE
from tests.protocol.planned_run import BATCH_SIZE, SHARD, PlannedRun
from tests.protocol.run_copy import Drivers, RunCopy, plan, shape

AUDITED = ["cache.policy=multistep", "audit.fraction=0.6"]


@pytest.fixture(scope="session")
def drivers() -> Iterator[Drivers]:
    started = Drivers()
    yield started
    started.close()


@pytest.fixture(scope="session")
def threads() -> Iterator[ThreadPoolExecutor]:
    """One thread a core."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as started:
        yield started


@pytest.fixture(scope="session")
def planned_run(
    tmp_path_factory: pytest.TempPathFactory, drivers: Drivers, threads: ThreadPoolExecutor
) -> PlannedRun:
    """Three shards: one of three groups, one with a picture that fails, and one without a tar.

    The last one is short and has no good picture. Pictures of most groups are audited.
    """
    failures = frozenset({8, 12, 13})
    prompts = [
        UNPAINTABLE if key in failures else f"a circle of {key} colours" for key in range(14)
    ]
    folder = tmp_path_factory.mktemp("protocol")
    template = plan(folder / "planned", prompts, [*shape(BATCH_SIZE, SHARD), *AUDITED])
    numbers = count()

    def copy() -> RunCopy:
        return RunCopy(template, folder / f"{next(numbers):05d}", drivers)

    undisturbed = copy()
    assert undisturbed.work() == 0, undisturbed.output()
    assert recount.wrong_at_end(undisturbed.root, prompts, failures) == []
    reference, audits = recount.tar_hashes(undisturbed.root), recount.audits(undisturbed.root)
    assert (len(audits), len(recount.measured(audits))) == (7, 6), "one is made alone"
    return PlannedRun(template, prompts, failures, reference, audits, copy, threads)
