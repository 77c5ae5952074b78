"""Techniques together: 8-bit linears, ranks that share a picture, step caching and compiled blocks, two or three at a time.

Each is compared with the same numerics without the one in question. 8-bit numbers turn the last bit of a sum into a step of 4%, so a
whole run in them is compared by PSNR; in fp32 the tolerances are those of each technique alone.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

import pytest
import torch

from batchgen.engine.build import build_engine
from batchgen.engine.interface import Compilation, Workload
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.mesh import Mesh
from batchgen.manifest import Picture
from batchgen.model.checkpoint import resolve
from batchgen.settings.job import Job, parse_job
from tests.engine.parallel import rank_tasks as tasks
from tests.engine.parallel.rank_tasks import Painted
from tests.support import replica_processes as processes
from tests.support.replica_processes import RankProcesses
from tests.support.sd3_folder import save_sd3
from tests.support.stock import make_picture, psnr

pytestmark = pytest.mark.slow

LAYOUTS = {"ulysses": Mesh(2, 1), "ring": Mesh(1, 2)}
CACHE = {
    "policy": "first_block",
    "threshold": 0.267,
    "taylor_order": 1,
}  # in six steps and fp32 no distance is near
CACHES = pytest.mark.parametrize("cache", [{}, CACHE], ids=["plain", "cached"])
LEAST_DB = {
    "fp8": 50.0,
    "bf16": 60.0,
}  # a whole run; seen: 53 to 57, and 67 to 77 (some pictures equal to the bit)
MOST_OTHER_TRACES = 2  # of eight pictures, where a distance lay within rounding of the threshold; seen: one, in FP8 over a ring
CPU = torch.device("cpu")


def job(
    linear: str = "auto",
    cache: dict[str, object] | None = None,
    compiled_in: Path | None = None,
    model: Path | str = "tiny",
) -> Job:
    """Compiled where there is a folder for the code."""
    return parse_job(
        {
            "model": {"path": str(model), "max_sequence_length": 32},
            "engine": {"device": "cpu"},
            "precision": {"linear": linear},
            "cache": cache or {},
            "compile": {"mode": "default" if compiled_in else "none"},
            "run": {"compile_cache": str(compiled_in)} if compiled_in else {},
        },
        "a test",
    )


def pictures(count: int, **changes: object) -> list[Picture]:
    return [make_picture(key, **changes) for key in range(count)]


def work(batch: int) -> Workload:
    return Workload(sizes=((128, 128),), batch=batch, negative=False)


@pytest.fixture(scope="module")
def two() -> Iterator[RankProcesses]:
    with RankProcesses(2) as ranks:
        yield ranks


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """For processes that compile."""
    monkeypatch.setattr(processes, "ANSWER_S", 900.0)


def alone(job: Job, group: Sequence[Picture]) -> list[Painted]:
    """Each picture by itself, in this process."""
    return [tasks.paint(Ranks(), job, [picture]) for picture in group]


def on_all(
    ranks: RankProcesses, job: Job, group: Sequence[Picture], work: Workload | None = None
) -> Painted:
    """As all ranks have it: the same bits."""
    painted = ranks.run(tasks.paint, job, group, work)
    assert len({(rank.bits, *rank.skipped) for rank in painted}) == 1
    return painted[0]


def error(one: Painted, other: Painted) -> float:
    return (one.latents - other.latents).abs().max().item()


def assert_alike(linear: str, ours: Painted, theirs: Painted) -> None:
    """Mean PSNR over pictures of the same trace and of another; these are counted. Equal bits count as 100 dB."""
    of_each = [
        min(psnr(one, other), 100.0)
        for one, other in zip(theirs.latents, ours.latents, strict=True)
    ]
    others = sum(one != other for one, other in zip(ours.skipped, theirs.skipped, strict=True))
    print(
        f"mean {mean(of_each):.1f} dB, worst {min(of_each):.1f} dB; other traces: {others} of {len(ours.skipped)}"
    )
    assert mean(of_each) >= LEAST_DB[linear]
    assert min(of_each) < 100, "nothing was rounded otherwise: was it in few bits?"
    assert others <= MOST_OTHER_TRACES


def joined(painted: Sequence[Painted]) -> Painted:
    latents = torch.cat([one.latents for one in painted])
    return Painted(latents, "", [trace for one in painted for trace in one.skipped], [])


@pytest.mark.parametrize("kind", ["fp8", "int8"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_8_bits_a_token_has_the_same_bits_on_a_rank_that_holds_a_share(
    two: RankProcesses, layout: str, kind: str
) -> None:
    two.connect(LAYOUTS[layout])
    assert two.run(tasks.linear_over_ranks, kind) == [True, True]
    two.close()


@CACHES
@pytest.mark.parametrize("layout", LAYOUTS)
def test_fp8_over_two_ranks_paints_what_fp8_on_one_does(
    two: RankProcesses, layout: str, cache: dict[str, object]
) -> None:
    fp8, group = job("fp8", cache), pictures(8)
    two.connect(LAYOUTS[layout])
    together = on_all(two, fp8, group)
    two.close()
    assert_alike("fp8", together, tasks.paint(Ranks(), fp8, group))


@CACHES
@pytest.mark.parametrize("linear", LEAST_DB)
def test_few_bits_paint_a_picture_among_seven_others_as_alone(
    linear: str, cache: dict[str, object]
) -> None:
    rough, group = job(linear, cache), pictures(8, steps=28)
    assert_alike(linear, tasks.paint(Ranks(), rough, group), joined(alone(rough, group)))


def test_compiled_ranks_paint_what_eager_ones_do_and_the_next_ones_load_their_code(
    two: RankProcesses, tmp_path: Path, patience: None
) -> None:
    """With a cache that skips, too: as a smaller batch, pictures that do not skip run in the graph of their number."""
    group, fast = pictures(3, steps=6), job(compiled_in=tmp_path)
    two.connect(Mesh(ulysses=2))
    eager = {
        name: on_all(two, job(cache=cache), group)
        for name, cache in (("plain", {}), ("cached", CACHE))
    }
    two.close()
    for cached in (0, 4):  # two kinds of blocks; one row, more rows
        with RankProcesses(2) as ranks:
            ranks.connect(Mesh(ulysses=2))
            started = ranks.run(tasks.start, fast, work(3))
            counts = [
                (rank.graphs, rank.cached, rank.breaks, rank.recompilations) for rank in started
            ]
            assert counts == [(4, cached, 0, 0)] * 2
            assert len({rank.code_sha256 for rank in started}) == 2, "each rank has an archive"
            for name, cache in (("plain", {}), ("cached", CACHE)):
                compiled = on_all(ranks, job(cache=cache, compiled_in=tmp_path), group, work(3))
                assert compiled.skipped == eager[name].skipped
                assert 0 < error(compiled, eager[name]) < 1e-4
            assert ranks.run(tasks.start, fast, work(3)) == started, "nothing was compiled again"
            ranks.close()
    assert len(set(eager["cached"].skipped)) > 1


def start_alone(ranks: RankProcesses, job: Job, batch: int) -> Compilation:
    (started,) = ranks.run(tasks.start, job, work(batch))
    assert (started.breaks, started.recompilations) == (0, 0)
    return started


@pytest.fixture(scope="module")
def one() -> Iterator[RankProcesses]:
    with RankProcesses(1) as ranks:
        yield ranks


def test_compiled_fp8_with_a_cache_in_a_group_paints_what_eager_fp8_does(
    one: RankProcesses, tmp_path: Path, patience: None
) -> None:
    started = start_alone(one, job("fp8", compiled_in=tmp_path), 4)
    group = pictures(4)
    for cache in ({}, CACHE):
        fast, plain = job("fp8", cache, tmp_path), job("fp8", cache)
        (together,) = one.run(tasks.paint, fast, group, work(4))
        assert_alike("fp8", together, tasks.paint(Ranks(), plain, group))
        assert_alike(
            "fp8",
            together,
            joined([one.run(tasks.paint, fast, [picture], work(4))[0] for picture in group]),
        )
    assert start_alone(one, job("fp8", compiled_in=tmp_path), 4) == started
    with RankProcesses(1) as another:
        again = start_alone(another, job("fp8", compiled_in=tmp_path), 4)
    assert (again.graphs, again.cached, again.code_sha256) == (
        started.graphs,
        started.graphs,
        started.code_sha256,
    )


@pytest.fixture(scope="module")
def sd35(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sd3(tmp_path_factory.mktemp("sd35") / "model")


SD35_CACHE = {"policy": "first_block", "threshold": 0.47, "taylor_order": 1}
SD35_CACHES = pytest.mark.parametrize("cache", [{}, SD35_CACHE], ids=["plain", "cached"])


@SD35_CACHES
def test_stable_diffusion_in_fp8_paints_a_picture_over_ranks_and_in_a_group_as_alone(
    two: RankProcesses, sd35: Path, cache: dict[str, object]
) -> None:
    """Each contrasted: two rows a picture."""
    fp8, group = job("fp8", cache, model=sd35), pictures(4, guidance=4.5)
    together = tasks.paint(Ranks(), fp8, group)
    assert (
        psnr(tasks.paint(Ranks(), job(cache=cache, model=sd35), group).latents, together.latents)
        > 25
    )  # another precision
    assert_alike("fp8", together, joined(alone(fp8, group)))
    for layout in LAYOUTS.values():
        two.connect(layout)
        assert_alike("fp8", on_all(two, fp8, group), together)
        two.close()


def test_compiled_stable_diffusion_paints_what_the_eager_one_does(
    one: RankProcesses, sd35: Path, tmp_path: Path, patience: None
) -> None:
    group = pictures(2, guidance=4.5)
    started = start_alone(one, job(model=sd35, compiled_in=tmp_path), 2)
    assert started.graphs == 6, "three kinds of blocks; one row, more rows"
    for cache in ({}, SD35_CACHE):
        (fast,) = one.run(
            tasks.paint, job(cache=cache, model=sd35, compiled_in=tmp_path), group, work(2)
        )
        plain = tasks.paint(Ranks(), job(cache=cache, model=sd35), group)
        assert fast.skipped == plain.skipped
        assert 0 < error(fast, plain) < 1e-4
    assert start_alone(one, job(model=sd35, compiled_in=tmp_path), 2) == started


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("offload", ["text", "model", "layers"])
def test_what_leaves_the_device_between_uses_changes_no_bit_of_a_cached_run(offload: str) -> None:
    group, painted = pictures(4), []
    for where in ("none", offload):
        settings = {
            "engine": {"device": "cuda", "offload": where},
            "compile": {"mode": "none"},
            "cache": CACHE,
        }
        engine = build_engine(parse_job(settings, "a test"), resolve(job().model))
        engine.denoise(group[:2])
        painted.append(engine.denoise(group))
    assert torch.equal(painted[0].latents, painted[1].latents)
    assert painted[0].traces == painted[1].traces
