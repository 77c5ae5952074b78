"""Techniques together: 8-bit linears, ranks, caching and compiled blocks, two or three at once.

Each combination is compared with the same numerics without one of its techniques. In 8 bits the
last bit of a sum may become a step of 4%, so whole runs in few bits are compared by PSNR. In fp32
the tolerances are those of each technique alone. Equal bits are always allowed; that a technique
acted is shown by what was called, or by the distance from fp32.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any
from unittest import mock

import pytest
import torch

from batchgen.engine.build import build_engine
from batchgen.engine.compile.compiler import Region
from batchgen.engine.interface import Compilation, Workload
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.mesh import Mesh
from batchgen.manifest import Picture
from batchgen.model.checkpoint import resolve
from batchgen.settings.job import Cache, Job, parse_job
from tests.engine.parallel import rank_tasks as tasks
from tests.engine.parallel.rank_tasks import Painted
from tests.support import replica_processes as processes
from tests.support.replica_processes import RankProcesses
from tests.support.sd3_folder import save_sd3
from tests.support.stock import make_picture, psnr

pytestmark = pytest.mark.slow

LAYOUTS = {"ulysses": Mesh(2, 1), "ring": Mesh(1, 2)}
# In six steps and fp32 no distance is near the threshold.
CACHE = {"policy": "first_block", "threshold": 0.267, "taylor_order": 1}
CACHES = pytest.mark.parametrize("cache", [{}, CACHE], ids=["plain", "cached"])
# Mean over the pictures of a whole run without a cache. Seen: 53 to 57, and 67 to 77, or equal
# bits; 48.6 with a cache that computes a third of the steps in FP8.
LEAST_DB = {"fp8": 50.0, "bf16": 60.0}
# The nearest that pictures in few bits come to fp32. bf16 has 8 significant bits, FP8 has 4. To
# round a number to 8 bits costs 2^-9 / √3 of it, rms. Latents range over some 8 standard
# deviations, so rounding the result alone leaves 20·log10(8·√3·2^9) = 77 dB. Seen: 50 to 66.
MOST_DB_TO_FP32 = 77.0
# Pictures of eight whose distance was within rounding of the threshold. Seen: one, FP8 on a ring.
MOST_OTHER_TRACES = 2


def job(
    linear: str = "auto",
    cache: dict[str, object] | None = None,
    compiled_in: Path | None = None,
    model: Path | str = "tiny",
) -> Job:
    """:param compiled_in: the folder for compiled code; None: eager."""
    sections = {
        "model": {"path": str(model), "max_sequence_length": 32},
        "engine": {"device": "cpu"},
        "precision": {"linear": linear},
        "cache": cache or {},
        "compile": {"mode": "default" if compiled_in else "none"},
        "run": {"compile_cache": str(compiled_in)} if compiled_in else {},
    }
    return parse_job(sections, "a test")


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
    """Time enough for processes that compile."""
    monkeypatch.setattr(processes, "ANSWER_S", 900.0)


def alone(job: Job, group: Sequence[Picture]) -> list[Painted]:
    """Each picture by itself, in this process."""
    return [here(job, [picture]) for picture in group]


def here(job: Job, group: Sequence[Picture]) -> Painted:
    """The pictures as one rank, in this process, paints them."""
    return tasks.paint(Ranks(), job, group)


def on_all(ranks: RankProcesses, job: Job, group: Sequence[Picture]) -> Painted:
    """The pictures as the ranks paint them together: all have the same bits."""
    return same_on_all(ranks.run(tasks.paint, job, group))


def same_on_all(painted: Sequence[Painted]) -> Painted:
    assert len({(rank.bits, *rank.skipped) for rank in painted}) == 1
    return painted[0]


def paint_compiled(
    ranks: Ranks, job: Job, group: Sequence[Picture], work: Workload
) -> tuple[Painted, float]:
    """A task: the pictures, and the share of all blocks and steps that ran compiled code."""
    calls, call = itertools.count(), Region.__call__

    def counted(region: Region, *given: Any) -> Any:
        next(calls)
        return call(region, *given)

    with mock.patch.object(Region, "__call__", counted):
        painted = tasks.paint(ranks, job, group, work)
    engine = tasks.engine_of(ranks, job.model_copy(update={"cache": Cache()}), work)
    return painted, next(calls) / (len(engine.family.blocks) * group[0].steps)


def assert_compiled_equals(
    ranks: RankProcesses, job: Job, group: Sequence[Picture], eager: Painted
) -> None:
    """The compiled job runs compiled code, and paints what the eager one does, up to fp32."""
    answers = ranks.run(paint_compiled, job, group, work(len(group)))
    painted = same_on_all([painted for painted, _ in answers])
    for _, share in answers:
        assert (0 < share <= 1) if job.cache.policy != "none" else (share == 1)
    assert painted.skipped == eager.skipped
    assert (painted.latents - eager.latents).abs().max() < 1e-4


def decibels(one: Painted, other: Painted) -> list[float]:
    """PSNR of each picture. Equal bits count as 100 dB."""
    pairs = zip(one.latents, other.latents, strict=True)
    return [min(psnr(ours, theirs), 100.0) for ours, theirs in pairs]


def steps_a_velocity(painted: Painted) -> float:
    """How many steps go along one computed velocity, on average.

    Roundings of computed velocities are independent. If each counts for k steps, a picture has k
    times fewer of them with k times the weight: the sum of their squares is k times as large.
    """
    letters = "".join(painted.skipped)
    return len(letters) / letters.count("0") if letters else 1.0


def assert_alike(linear: str, ours: Painted, theirs: Painted) -> None:
    """The pictures are near each other on average, and few of them have another trace."""
    of_each = decibels(theirs, ours)
    others = sum(one != other for one, other in zip(ours.skipped, theirs.skipped, strict=True))
    print(f"mean {mean(of_each):.1f} dB, worst {min(of_each):.1f} dB; other traces: {others}")
    assert mean(of_each) >= LEAST_DB[linear] - 10 * math.log10(steps_a_velocity(theirs))
    assert others <= MOST_OTHER_TRACES


def assert_in_few_bits(painted: Painted, fp32: Painted) -> None:
    """No picture comes nearer to fp32 than few bits can."""
    nearest = max(decibels(fp32, painted))
    print(f"nearest to fp32: {nearest:.1f} dB")
    assert nearest < MOST_DB_TO_FP32


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
    assert_alike("fp8", together, here(fp8, group))
    assert_in_few_bits(together, here(job(cache=cache), group))


@CACHES
@pytest.mark.parametrize("linear", LEAST_DB)
def test_few_bits_paint_a_picture_among_seven_others_as_alone(
    linear: str, cache: dict[str, object]
) -> None:
    rough, group = job(linear, cache), pictures(8, steps=28)
    together = here(rough, group)
    assert_alike(linear, together, joined(alone(rough, group)))
    assert_in_few_bits(together, here(job(cache=cache), group))


def test_compiled_ranks_paint_what_eager_ones_do_and_the_next_ones_load_their_code(
    two: RankProcesses, tmp_path: Path, patience: None
) -> None:
    """With a cache too: the pictures that do not skip run in the graph of their number."""
    group, fast = pictures(3, steps=6), job(compiled_in=tmp_path)
    caches: list[dict[str, object]] = [{}, CACHE]
    two.connect(Mesh(ulysses=2))
    eager = [on_all(two, job(cache=cache), group) for cache in caches]
    two.close()
    # Four graphs: two kinds of blocks, for one row and for more. The second time all are loaded.
    for compiled_anew in (4, 0):
        with RankProcesses(2) as ranks:
            ranks.connect(Mesh(ulysses=2))
            started = ranks.run(tasks.start, fast, work(3))
            counts = [(rank.graphs, rank.breaks, rank.recompilations) for rank in started]
            assert counts == [(4, 0, 0)] * 2
            assert ranks.run(tasks.count_compiled) == [compiled_anew] * 2
            assert len({rank.code_sha256 for rank in started}) == 2, "each rank has an archive"
            for cache, expected in zip(caches, eager, strict=True):
                compiled = job(cache=cache, compiled_in=tmp_path)
                assert_compiled_equals(ranks, compiled, group, expected)
            assert ranks.run(tasks.start, fast, work(3)) == started, "nothing was compiled again"
            ranks.close()
    assert len(set(eager[1].skipped)) > 1


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
        fast, eager = job("fp8", cache, tmp_path), here(job("fp8", cache), group)
        together, share = one.run(paint_compiled, fast, group, work(4))[0]
        singly = [one.run(tasks.paint, fast, [picture], work(4))[0] for picture in group]
        assert share > 0
        assert_alike("fp8", together, eager)
        assert_alike("fp8", together, joined(singly))
        assert_in_few_bits(together, here(job(cache=cache), group))
    assert start_alone(one, job("fp8", compiled_in=tmp_path), 4) == started
    with RankProcesses(1) as another:
        assert start_alone(another, job("fp8", compiled_in=tmp_path), 4) == started
        assert another.run(tasks.count_compiled) == [0]


@pytest.fixture(scope="module")
def sd35(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sd3(tmp_path_factory.mktemp("sd35") / "model")


SD35_CACHE = {"policy": "first_block", "threshold": 0.47, "taylor_order": 1}
SD35_CACHES = pytest.mark.parametrize("cache", [{}, SD35_CACHE], ids=["plain", "cached"])


@SD35_CACHES
def test_stable_diffusion_in_fp8_paints_a_picture_over_ranks_and_in_a_group_as_alone(
    two: RankProcesses, sd35: Path, cache: dict[str, object]
) -> None:
    """With guidance a picture has two rows."""
    fp8, group = job("fp8", cache, model=sd35), pictures(4, guidance=4.5)
    together, fp32 = here(fp8, group), here(job(cache=cache, model=sd35), group)
    assert psnr(fp32.latents, together.latents) > 25
    assert_in_few_bits(together, fp32)
    assert_alike("fp8", together, joined(alone(fp8, group)))
    for layout in LAYOUTS.values():
        two.connect(layout)
        over_ranks = on_all(two, fp8, group)
        assert_alike("fp8", over_ranks, together)
        assert_in_few_bits(over_ranks, fp32)
        two.close()


def test_compiled_stable_diffusion_paints_what_the_eager_one_does(
    one: RankProcesses, sd35: Path, tmp_path: Path, patience: None
) -> None:
    group = pictures(2, guidance=4.5)
    started = start_alone(one, job(model=sd35, compiled_in=tmp_path), 2)
    assert started.graphs == 6, "three kinds of blocks; one row, more rows"
    for cache in ({}, SD35_CACHE):
        eager = here(job(cache=cache, model=sd35), group)
        compiled = job(cache=cache, model=sd35, compiled_in=tmp_path)
        assert_compiled_equals(one, compiled, group, eager)
    assert start_alone(one, job(model=sd35, compiled_in=tmp_path), 2) == started


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("offload", ["text", "model", "layers"])
def test_what_leaves_the_device_between_uses_changes_no_bit_of_a_cached_run(offload: str) -> None:
    group, painted = pictures(4), []
    for where in ("none", offload):
        device = {"device": "cuda", "offload": where}
        sections = {"engine": device, "compile": {"mode": "none"}, "cache": CACHE}
        engine = build_engine(parse_job(sections, "a test"), resolve(job().model))
        engine.denoise(group[:2])
        painted.append(engine.denoise(group))
    assert torch.equal(painted[0].latents, painted[1].latents)
    assert painted[0].traces == painted[1].traces
