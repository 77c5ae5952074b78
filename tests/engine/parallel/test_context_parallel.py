"""Context parallelism of the whole engine.

Ranks that share a picture's tokens make the picture that one rank makes, and skip the same steps.
"""

import functools
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.mesh import Mesh
from batchgen.manifest import Picture
from batchgen.settings.job import Job, parse_job
from tests.engine.parallel import rank_tasks as tasks
from tests.engine.parallel.rank_tasks import Painted
from tests.support.replica_processes import RankProcesses
from tests.support.stock import make_picture, psnr

pytestmark = pytest.mark.slow

MESHES = {"ulysses": Mesh(2, 1), "ring": Mesh(1, 2), "mesh": Mesh(2, 2)}
# Image tokens: width and height, px.
SIZES = {64: (128, 128), 96: (192, 128), 225: (240, 240)}
# Text tokens. A process builds an engine for each.
TEXTS = [32, 77, 512]
# These pictures skip some of six steps, and not the same ones. No distance is near the threshold.
THRESHOLD = 0.267


@pytest.fixture(scope="module")
def processes() -> Iterator[dict[int, RankProcesses]]:
    """By their number, processes that form one replica."""
    with RankProcesses(2) as two, RankProcesses(4) as four:
        yield {2: two, 4: four}


@pytest.fixture(scope="module", params=MESHES)
def ranks(
    request: pytest.FixtureRequest, processes: dict[int, RankProcesses]
) -> Iterator[RankProcesses]:
    """One replica of this mesh."""
    mesh = MESHES[request.param]
    ranks = processes[mesh.degree]
    ranks.connect(mesh)
    yield ranks
    ranks.close()


def job(
    text: int,
    threshold: float = 0.0,
    order: int = 0,
    linear: str = "auto",
    cache: dict[str, Any] | None = None,
) -> Job:
    """A job with a step cache, by default of the first block if there is a threshold."""
    by_block = {"policy": "first_block", "threshold": threshold, "taylor_order": order}
    tables = {
        "model": {"path": "tiny", "max_sequence_length": text},
        "engine": {"device": "cpu"},
        "precision": {"linear": linear},
        "cache": cache or (by_block if threshold else {}),
    }
    return parse_job(tables, "a test")


def group(image: int, text: int = 32) -> tuple[Picture, ...]:
    """Two pictures, or one if its text is long."""
    (width, height), count = SIZES[image], 1 if text == 512 else 2
    return tuple(make_picture(key, width=width, height=height, steps=6) for key in range(count))


@functools.cache
def on_one(job: Job, pictures: tuple[Picture, ...]) -> Painted:
    """The same group on one rank, in this process."""
    return tasks.paint(Ranks(), job, pictures)


def on_all(ranks: RankProcesses, job: Job, pictures: tuple[Picture, ...]) -> Painted:
    """The group as all ranks have it, to the same bits."""
    painted = ranks.run(tasks.paint, job, pictures)
    assert len({(rank.bits, *rank.skipped) for rank in painted}) == 1
    assert all(rank.distances == painted[0].distances for rank in painted)
    return painted[0]


def error(one: Painted, other: Painted) -> float:
    return (one.latents - other.latents).abs().max().item()


def margin(painted: Painted, threshold: float) -> float:
    """How far the nearest distance is from the threshold."""
    measured = [d for distances in painted.distances for d in distances if d is not None]
    return min(abs(distance - threshold) for distance in measured)


@pytest.mark.parametrize(("text", "image"), product(TEXTS, SIZES))
def test_ranks_paint_what_one_rank_paints(ranks: RankProcesses, text: int, image: int) -> None:
    pictures = group(image, text)
    assert error(on_all(ranks, job(text), pictures), on_one(job(text), pictures)) < 1e-4


@pytest.mark.parametrize(("text", "image"), product(TEXTS, SIZES))
def test_ranks_skip_the_steps_that_one_rank_skips(
    ranks: RankProcesses, text: int, image: int
) -> None:
    cached = job(text, THRESHOLD, order=image % 2)
    pictures = group(image, text)
    alone, together = on_one(cached, pictures), on_all(ranks, cached, pictures)
    assert margin(alone, THRESHOLD) > 1e-3
    assert all("1" in skipped and "0" in skipped[1:] for skipped in alone.skipped)
    assert together.skipped == alone.skipped
    assert error(together, alone) < 1e-4


@pytest.mark.parametrize("threshold", [0.0, THRESHOLD])
def test_ranks_paint_and_skip_alike_with_classifier_free_guidance_too(
    ranks: RankProcesses, threshold: float
) -> None:
    contrast = {"negative_prompt": "a blue square", "true_cfg": 3.0}
    pictures = (*group(225), make_picture(2, width=240, height=240, steps=6, **contrast))
    cached = job(32, threshold)
    alone, together = on_one(cached, pictures), on_all(ranks, cached, pictures)
    assert together.skipped == alone.skipped
    assert error(together, alone) < 1e-4


@pytest.mark.parametrize(
    "cache",
    [
        {"policy": "multistep", "tolerance": 0.02},
        {"policy": "adacache", "threshold": 0.3},
        {"policy": "schedule", "skip": [2, 3, 5, 6, 7, 9]},
    ],
    ids=str,
)
def test_ranks_compute_the_steps_that_one_rank_computes(
    ranks: RankProcesses, cache: dict[str, Any]
) -> None:
    """Where nothing is probed, nothing is told from rank to rank."""
    contrast = {"negative_prompt": "a blue square", "true_cfg": 3.0}
    every = [replace(picture, steps=12) for picture in group(225)]
    every.append(make_picture(2, width=240, height=240, steps=12, **contrast))
    alone = on_one(job(32, cache=cache), tuple(every))
    together = on_all(ranks, job(32, cache=cache), tuple(every))
    assert all("1" in skipped and "0" in skipped[1:] for skipped in alone.skipped)
    assert together.skipped == alone.skipped
    assert psnr(alone.latents, together.latents) >= 90


def test_bf16_differs_by_its_own_rounding(ranks: RankProcesses) -> None:
    rough = job(32, linear="bf16")
    alone, together = on_one(rough, group(225)), on_all(ranks, rough, group(225))
    assert psnr(alone.latents, together.latents) > 50
    assert psnr(alone.latents, on_one(job(32), group(225)).latents) < 90


def test_one_rank_decides_though_each_sees_another_change(ranks: RankProcesses) -> None:
    """The signal hardly moves on rank 0, so that alone it would skip where the others would not."""
    threshold = 0.35
    seen = ranks.run(tasks.paint_apart, job(32, threshold), group(64))
    painted, mine = seen[0]
    for other, theirs in seen[1:]:
        assert other[1:] == painted[1:], "bits, skipped steps and distances"
        assert any(a < threshold < b for a, b in zip(mine, theirs, strict=True))
    assert all("1" in skipped and "0" in skipped[1:] for skipped in painted.skipped)
    # At first all references are 1, so the common distance is the mean of the ranks' own.
    mean = sum(own[0] for _, own in seen) / len(seen)
    assert painted.distances[0][1] == pytest.approx(mean)
