"""cfg = 2: two halves of a replica share the rows of classifier-free guidance, and nothing changes.

Latents are those of one rank within 1e-4 of their largest value: sums are ordered differently.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch._inductor import compile_fx

from batchgen.engine.interface import Compilation, Workload
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.halves import Halves, SomeRows
from batchgen.engine.parallel.mesh import Mesh
from batchgen.manifest import Picture
from batchgen.settings.job import Job, parse_job
from tests.engine.parallel import rank_tasks as tasks
from tests.support import replica_processes as processes
from tests.support.replica_processes import RankProcesses, ReplicaProcesses
from tests.support.sd3_folder import save_sd3
from tests.support.stock import make_picture
from tests.support.tiny_families import TEXT_TOKENS, save_klein

RELATIVE = 1e-4
LAYOUTS = {
    "cfg": Mesh(cfg=2),
    "cfg, ulysses": Mesh(ulysses=2, cfg=2),
    "cfg, ring": Mesh(ring=2, cfg=2),
}
# Groups by the guidance of their pictures. At 1 a picture has one row.
GROUPS = {
    "all contrasted": (4.5, 2.0),
    "mixed": (1.0, 4.5, 3.0),
    "one of many": (1.0, 1.0, 1.0, 4.5),
    "one row": (1.0,),
}
MODELS = {"Stable Diffusion 3": save_sd3, "FLUX.2 klein": save_klein}
# Thresholds are apart from every distance of these pictures.
CACHES: dict[str, dict[str, dict[str, Any]]] = {
    "plain": {model: {} for model in MODELS},
    "first_block": {
        "Stable Diffusion 3": {"policy": "first_block", "threshold": 0.47},
        "FLUX.2 klein": {"policy": "first_block", "threshold": 1.03},
    },
    "multistep": {model: {"policy": "multistep", "tolerance": 0.05} for model in MODELS},
}


def of_half(half: int, rows: int) -> Halves:
    """The halves as a rank of one of them sees them."""
    ranks = Ranks(half, Mesh(cfg=2))
    ranks.branches = Ranks(half, Mesh(cfg=2))
    return Halves(ranks, rows)


@pytest.mark.parametrize(
    ("rows", "own", "held"),
    [
        (1, (range(1), range(1, 1)), (range(1), range(1))),
        (5, (range(3), range(3, 5)), (range(3), range(3, 5))),
        (8, (range(4), range(4, 8)), (range(4), range(4, 8))),
    ],
)
def test_halves_have_as_many_rows_and_a_half_without_one_holds_the_first(
    rows: int, own: Sequence[range], held: Sequence[range]
) -> None:
    halves = [of_half(half, rows) for half in range(2)]
    assert [(its.own, its.held) for its in halves] == list(zip(own, held, strict=True))


@pytest.mark.parametrize("rows", range(1, 7))
def test_every_selection_of_rows_is_computed_once_where_the_rows_are_held(rows: int) -> None:
    halves = [of_half(half, rows) for half in range(2)]
    for picked in product((False, True), repeat=rows):
        numbers = [row for row in range(rows) if picked[row]]
        some = SomeRows(numbers, torch.tensor(numbers))
        computed = []
        for place, half in enumerate(halves):
            share = half.share(some)
            mine = numbers[share.places]
            assert len(mine) == share.counts[place]
            local = range(len(half.own)) if share.rows is None else share.rows.numbers
            assert [half.own[row] for row in local][: len(mine)] == mine
            if share.rows is not None:
                assert share.rows.index.tolist() == list(share.rows.numbers)
            computed += mine
        assert computed == numbers


def test_sums_of_rows_stand_where_their_half_has_them() -> None:
    sums = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    placed = [of_half(0, 5).place(sums), of_half(1, 5).place(sums[:, :2])]
    assert sum(placed).tolist() == [[1, 2, 3, 1, 2], [4, 5, 6, 4, 5]]
    assert of_half(1, 1).place(sums[:, :1]).tolist() == [[0], [0]]
    assert Halves(Ranks(), 3).place(sums) is sums


def test_a_mesh_tells_its_halves_and_the_ranks_with_the_same_tokens() -> None:
    mesh = Mesh(ulysses=2, ring=2, cfg=2)
    assert (mesh.degree, mesh.cp) == (8, 4)
    assert mesh.halves == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert mesh.branches == [[0, 4], [1, 5], [2, 6], [3, 7]]


@pytest.fixture(scope="module", params=LAYOUTS)
def ranks(request: pytest.FixtureRequest) -> Iterator[RankProcesses]:
    mesh = LAYOUTS[request.param]
    with RankProcesses(mesh.degree) as together:
        together.connect(mesh)
        yield together
        together.close()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: save(tmp_path_factory.mktemp("model") / "it") for name, save in MODELS.items()}


def new_job(folder: Path, **sections: Any) -> Job:
    model = {"path": str(folder), "max_sequence_length": TEXT_TOKENS}
    return parse_job({"model": model, "engine": {"device": "cpu"}} | sections, "a test")


def group_of(scales: Sequence[float], **changes: Any) -> list[Picture]:
    group = [
        make_picture(key, guidance=scale, width=112, height=112, **changes)
        for key, scale in enumerate(scales)
    ]
    return [replace(one, negative_prompt="a blue circle") if one.key == 1 else one for one in group]


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize(("model", "cache"), product(MODELS, CACHES))
def test_halves_paint_and_skip_what_one_rank_does(
    ranks: RankProcesses, folders: dict[str, Path], model: str, cache: str
) -> None:
    job = new_job(folders[model], cache=CACHES[cache][model])
    for name, scales in GROUPS.items():
        if name == "one of many" and cache == "plain":
            continue  # a half that has nothing to compute is of interest where steps are skipped
        group = group_of(scales, steps=6)
        alone = tasks.paint(Ranks(), job, group)
        together = ranks.run(tasks.paint, job, group)
        assert len({(rank.bits, *rank.skipped) for rank in together}) == 1, name
        assert together[0].skipped == alone.skipped, name
        assert difference(alone.latents, together[0].latents) <= RELATIVE, name
        skipped = [steps for steps in alone.skipped if "1" in steps]
        assert cache == "plain" or len(scales) == 1 or skipped, "some step is skipped"


def count_rows(ranks: Ranks, job: Job, group: Sequence[Picture]) -> list[int]:
    """A task: the rows of every call of the first block on this rank."""
    engine, rows = tasks.engine_of(ranks, job), list[int]()
    first = engine.family.blocks[0]

    def counted(*given: Any, **named: Any) -> Any:
        rows.append(len(named["hidden_states"]))
        return first(*given, **named)

    engine.family.blocks[0] = counted
    try:
        engine.denoise(group)
    finally:
        engine.family.blocks[0] = first
    return rows


@pytest.mark.slow
def test_each_half_computes_half_of_the_rows(
    ranks: RankProcesses, folders: dict[str, Path]
) -> None:
    job, halves = new_job(folders["FLUX.2 klein"]), ranks.mesh.halves
    for scales, expected in (((4.5, 2.0), (2, 2)), ((1.0, 4.5, 3.0), (3, 2))):
        rows = ranks.run(count_rows, job, group_of(scales, steps=2))
        for half, count in zip(halves, expected, strict=True):
            assert [rows[rank] for rank in half] == [[count] * 2] * len(half)
    rows = ranks.run(count_rows, job, group_of([1.0], steps=2))
    assert [rows[rank] for rank in halves[0]] == [[1, 1]] * len(halves[0])
    assert [rows[rank] for rank in halves[1]] == [[]] * len(halves[1]), "there is one row"


def pixels(ranks: Ranks, job: Job, group: Sequence[Picture]) -> npt.NDArray[np.uint8]:
    """A task: a group, decoded."""
    engine = tasks.engine_of(ranks, job)
    return engine.decode(engine.denoise(group))[0]


@pytest.mark.slow
def test_all_ranks_decode_and_eight_bits_are_shared_too(
    ranks: RankProcesses, folders: dict[str, Path]
) -> None:
    """In 8 bits the last bit of a sum may become a step of the next one's rounding."""
    group = group_of(GROUPS["mixed"])
    for linear, most in (("auto", 1), ("int8", 48)):
        job = new_job(folders["Stable Diffusion 3"], precision={"linear": linear})
        alone = pixels(Ranks(), job, group).astype(int)
        for painted in ranks.run(pixels, job, group):
            assert np.abs(alone - painted).max() <= most
            assert np.abs(alone - painted).mean() < 0.5


def compiled(ranks: Ranks, job: Job, group: Sequence[Picture]) -> tuple[Compilation, torch.Tensor]:
    """A task: a group with compiled blocks, traced, and executed as traced."""
    compile_fx.compile_fx = lambda graph, *_, **__: graph
    work = Workload(sizes=((112, 112),), batch=len(group), negative=True)
    engine = tasks.engine_of(ranks, job, work)
    latents = engine.denoise(group).latents
    return engine.compilation, latents


@pytest.mark.slow
def test_graphs_are_made_for_the_rows_of_a_half(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One picture is a row for each half: there is no graph of more rows."""
    monkeypatch.setattr(processes, "ANSWER_S", 300.0)
    folder = folders["FLUX.2 klein"]
    eager, sections = new_job(folder), {"run": {"compile_cache": str(tmp_path)}}
    job = new_job(folder, compile={"mode": "default"}, **sections)
    with RankProcesses(2) as two:
        two.connect(Mesh(cfg=2))
        for scales, graphs in (((4.5,), 2), ((4.5, 1.0, 3.0), 4)):
            group = group_of(scales)
            alone = tasks.paint(Ranks(), eager, group).latents
            for compilation, latents in two.run(compiled, job, group):
                assert (compilation.graphs, compilation.recompilations) == (graphs, 0)
                assert difference(alone, latents) <= RELATIVE
        two.close()


@pytest.mark.slow
def test_a_replica_of_two_halves_makes_what_one_rank_makes(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """As workers start it: rank 0 leads, the others follow, and all leave in good order."""
    folder = folders["Stable Diffusion 3"]
    job = new_job(folder, parallel={"cfg": 2})
    groups = [group_of(GROUPS["mixed"]), group_of([1.0]), group_of(GROUPS["all contrasted"])]
    with ReplicaProcesses(tmp_path / "replica", job) as replica:
        assert len(replica.processes) == 2
        replica.ask(tasks.identity)
        assert replica.answer().endswith(" cfg=2")
        replica.ask(tasks.make, groups)
        for made, expected in zip(
            replica.answer(),
            tasks.make(tasks.engine_of(Ranks(), new_job(folder)), groups),
            strict=True,
        ):
            assert difference(expected.latents, made.latents) <= RELATIVE
            assert np.abs(made.pixels.astype(int) - expected.pixels).max() <= 1
        replica.close()
        assert replica.ends() == [0, 0]
