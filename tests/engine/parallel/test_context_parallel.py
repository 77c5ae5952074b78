"""Context parallelism of the whole engine: ranks that share a picture's tokens make the picture that one rank makes, and skip its steps."""

import functools
from collections.abc import Iterator
from itertools import product

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

LAYOUTS = {"ulysses": Mesh(2, 1), "ring": Mesh(1, 2), "mesh": Mesh(2, 2)}
SIZES = {64: (128, 128), 96: (192, 128), 225: (240, 240)}  # image tokens: px
TEXTS = [32, 77, 512]  # tokens; a process that is told them in this order builds an engine for each
THRESHOLD = 0.267  # in six steps of these pictures some are skipped, not the same of every picture; no distance is near


@pytest.fixture(scope="module")
def worlds() -> Iterator[dict[int, RankProcesses]]:
    """As many processes as the key says."""
    with RankProcesses(2) as two, RankProcesses(4) as four:
        yield {2: two, 4: four}


@pytest.fixture(scope="module", params=LAYOUTS)
def world(request: pytest.FixtureRequest, worlds: dict[int, RankProcesses]) -> Iterator[RankProcesses]:
    """One replica of this layout."""
    layout = LAYOUTS[request.param]
    world = worlds[layout.degree]
    world.connect(layout)
    yield world
    world.close()


def job(text: int, threshold: float = 0.0, order: int = 0, linear: str = "auto") -> Job:
    """With a step cache where there is a threshold."""
    cache = (
        {"policy": "first_block", "threshold": threshold, "taylor_order": order}
        if threshold
        else {}
    )
    model = {"path": "tiny", "max_sequence_length": text}
    return parse_job(
        {
            "model": model,
            "engine": {"device": "cpu"},
            "precision": {"linear": linear},
            "cache": cache,
        },
        "a test",
    )


def group(image: int, text: int = 32) -> tuple[Picture, ...]:
    """Two pictures, or of long texts one."""
    width, height = SIZES[image]
    return tuple(
        make_picture(key, width=width, height=height, steps=6)
        for key in range(1 if text == 512 else 2)
    )


@functools.cache
def on_one(job: Job, pictures: tuple[Picture, ...]) -> Painted:
    """The same group on one rank, in this process."""
    return tasks.paint(Ranks(), job, pictures)


def on_all(world: RankProcesses, job: Job, pictures: tuple[Picture, ...]) -> Painted:
    """As all ranks have it: the same bits."""
    painted = world.run(tasks.paint, job, pictures)
    assert len({(rank.bits, *rank.skipped) for rank in painted}) == 1
    assert all(rank.distances == painted[0].distances for rank in painted)
    return painted[0]


def error(one: Painted, other: Painted) -> float:
    return (one.latents - other.latents).abs().max().item()


def margin(painted: Painted, threshold: float) -> float:
    """How far the nearest distance is from the threshold."""
    return min(
        abs(distance - threshold)
        for distances in painted.distances
        for distance in distances
        if distance is not None
    )


@pytest.mark.parametrize(("text", "image"), product(TEXTS, SIZES))
def test_ranks_paint_what_one_rank_paints(world: RankProcesses, text: int, image: int) -> None:
    pictures = group(image, text)
    assert error(on_all(world, job(text), pictures), on_one(job(text), pictures)) < 1e-4


@pytest.mark.parametrize(("text", "image"), product(TEXTS, SIZES))
def test_ranks_skip_the_steps_that_one_rank_skips(world: RankProcesses, text: int, image: int) -> None:
    cached = job(text, THRESHOLD, order=image % 2)
    pictures = group(image, text)
    alone, together = on_one(cached, pictures), on_all(world, cached, pictures)
    assert margin(alone, THRESHOLD) > 1e-3
    assert all("1" in skipped and "0" in skipped[1:] for skipped in alone.skipped)
    assert together.skipped == alone.skipped
    assert error(together, alone) < 1e-4


@pytest.mark.parametrize("threshold", [0.0, THRESHOLD])
def test_contrasted_pictures_too(world: RankProcesses, threshold: float) -> None:
    pictures = (
        *group(225),
        make_picture(
            2, width=240, height=240, steps=6, negative_prompt="a blue square", true_cfg=3.0
        ),
    )
    cached = job(32, threshold)
    alone, together = on_one(cached, pictures), on_all(world, cached, pictures)
    assert together.skipped == alone.skipped
    assert error(together, alone) < 1e-4


def test_bf16_differs_by_its_own_rounding(world: RankProcesses) -> None:
    rough = job(32, linear="bf16")
    alone, together = on_one(rough, group(225)), on_all(world, rough, group(225))
    assert psnr(alone.latents, together.latents) > 50
    assert psnr(alone.latents, on_one(job(32), group(225)).latents) < 90


def test_one_rank_decides_though_each_sees_another_change(world: RankProcesses) -> None:
    """A signal that hardly moves on rank 0 and on the others as much as it measures: alone, one would skip and the others would not."""
    threshold = 0.35
    seen = world.run(tasks.paint_apart, job(32, threshold), group(64))
    painted, calm = seen[0]
    for other, stirred in seen[1:]:
        assert (other.bits, other.skipped, other.distances) == (
            painted.bits,
            painted.skipped,
            painted.distances,
        )
        assert any(mine < threshold < theirs for mine, theirs in zip(calm, stirred, strict=True))
    assert all("1" in skipped and "0" in skipped[1:] for skipped in painted.skipped)
    assert painted.distances[0][1] == pytest.approx(
        sum(own[0] for _, own in seen) / len(seen)
    )  # at first all references are 1
