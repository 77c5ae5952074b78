"""Attention over real ranks, each with a share of the tokens, equals attention on one rank."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import product

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from batchgen.engine.attention import log_sum_exp
from batchgen.engine.attention.log_sum_exp import choose_attend_part
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.mesh import Mesh, check_mesh, choose_mesh, shares
from batchgen.engine.parallel.ulysses_ring import merge
from batchgen.errors import DeviceFault, JobError
from tests.engine.parallel import rank_tasks as tasks
from tests.support.replica_processes import RankProcesses

# Four processes form two replicas of two ranks, or one of four.
MESHES = {
    "ulysses": Mesh(2, 1),
    "ring": Mesh(1, 2),
    "mesh": Mesh(2, 2),
    "ulysses of 4": Mesh(4, 1),
    "ring of 4": Mesh(1, 4),
}


@pytest.fixture(scope="module")
def processes() -> Iterator[RankProcesses]:
    with RankProcesses(4) as four:
        yield four


# Slow, because five processes import torch.
@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in MESHES]
)
def ranks(request: pytest.FixtureRequest, processes: RankProcesses) -> Iterator[RankProcesses]:
    """Four ranks, connected."""
    processes.connect(MESHES[request.param])
    yield processes
    processes.close()


def attention_error(ranks: RankProcesses, *arguments: object) -> float:
    """The largest error on any rank. The ranks of a replica must hold the same bits."""
    replicas = ranks.run_replicas(tasks.attend, *arguments)
    assert all(len({bits for _, bits in replica}) == 1 for replica in replicas)
    return max(error for replica in replicas for error, _ in replica)


@pytest.mark.parametrize(("rows", "image", "text"), product((1, 3), (64, 96, 225), (32, 77, 512)))
def test_attention_over_ranks_is_attention_on_one(
    ranks: RankProcesses, rows: int, image: int, text: int
) -> None:
    assert attention_error(ranks, rows, text, image) <= 1e-5


@pytest.mark.parametrize("own", [(9, 3, 3), (12, 12, 1), (0, 5, 11)])
def test_texts_keep_their_lengths_over_ranks(ranks: RankProcesses, own: tuple[int, ...]) -> None:
    assert attention_error(ranks, 3, 12, 18, "fp32", "sdpa", 1.0, own) <= 1e-5


@pytest.mark.parametrize(("text", "image"), [(0, 9), (1, 1), (3, 2), (2, 5), (0, 1)])
def test_a_rank_may_hold_one_token_or_none(ranks: RankProcesses, text: int, image: int) -> None:
    assert attention_error(ranks, 2, text, image) <= 1e-5


def test_the_written_out_formula_serves_the_ring_as_well(ranks: RankProcesses) -> None:
    assert attention_error(ranks, 2, 32, 65, "fp32", "math") <= 1e-5


def test_scores_in_the_thousands_are_merged_without_overflow(ranks: RankProcesses) -> None:
    """Values are of size 40, scores of 40² · 16 / 4."""
    assert attention_error(ranks, 2, 32, 65, "fp32", "sdpa", 40.0) <= 40 * 1e-4


def test_bf16_differs_by_its_own_rounding(ranks: RankProcesses) -> None:
    """Values go up to 4, with three significant digits."""
    assert attention_error(ranks, 2, 77, 225, "bf16") <= 0.02


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool", "int64"])
@pytest.mark.parametrize("length", [1, 3, 8, 13])
def test_what_is_split_gathers_to_the_whole(ranks: RankProcesses, length: int, dtype: str) -> None:
    assert ranks.run(tasks.regather, length, dtype) == [True] * 4


def test_a_sum_has_the_same_bits_on_every_rank(ranks: RankProcesses) -> None:
    for replica in ranks.run_replicas(tasks.total):
        assert len({first.hex() for first, _ in replica}) == 1
        assert replica[0][1] == sum(range(ranks.mesh.degree))


def test_all_ranks_follow_rank_0_and_keep_what_they_had(ranks: RankProcesses) -> None:
    for replica in ranks.run_replicas(tasks.decision):
        assert [agreed for agreed, _ in replica] == [[True, False, True]] * ranks.mesh.degree
        assert replica[1][1] == [False, True, True]


@pytest.fixture(scope="module")
def pair() -> Iterator[RankProcesses]:
    """Two connected ranks."""
    with RankProcesses(2) as two:
        two.connect(Mesh(1, 2))
        yield two


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_block_compiles_into_one_graph_for_all_batch_sizes(
    pair: RankProcesses, dtype: str
) -> None:
    assert pair.run(tasks.compiled, dtype, "aot_eager") == [(0.0, 1, 0)] * 2


@pytest.mark.slow
def test_inductor_compiles_the_block_too(pair: RankProcesses) -> None:
    for error, graphs, breaks in pair.run(tasks.compiled, "fp32", "inductor"):
        assert error < 1e-5
        assert (graphs, breaks) == (1, 0)


def test_the_operator_passes_pytorchs_own_checks(ranks: RankProcesses) -> None:
    ranks.run(tasks.check_operator)


def test_heads_that_ulysses_cannot_deal_out_are_refused_at_construction(
    ranks: RankProcesses,
) -> None:
    if ranks.mesh.ulysses == 1:
        ranks.run(tasks.build, 3)
        return
    with pytest.raises(JobError, match=f"3 % {ranks.mesh.ulysses} = "):
        ranks.run(tasks.build, 3)


def test_a_rank_alone_is_the_identity_and_needs_no_group() -> None:
    ranks, x = Ranks(), torch.randn(2, 5)
    assert all(y is x for y in (ranks.split(x), ranks.gather(x, 5), ranks.sum(x), ranks.agree(x)))
    ranks.close()
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_lost_and_silent_peers_are_errors_in_time_and_other_replicas_never_notice() -> None:
    with RankProcesses(4) as ranks:
        ranks.connect(Mesh(1, 2), timeout_s=4)
        ranks.processes[1].kill()
        begin = time.monotonic()
        ranks.ask(0, tasks.attend, 1, 32, 64)
        with pytest.raises(DeviceFault, match="rank 0 of 2: a peer is gone"):
            ranks.answer(0)
        for number in (2, 3):
            ranks.ask(number, tasks.attend, 1, 32, 64)
        assert max(ranks.answer(number)[0] for number in (2, 3)) <= 1e-5
        os.kill(ranks.processes[3].pid, signal.SIGSTOP)  # it lives, and does not answer
        ranks.ask(2, tasks.total)
        with pytest.raises(DeviceFault, match="rank 0 of 2"):
            ranks.answer(2)
        assert time.monotonic() - begin < 15


def test_a_rank_that_ends_is_an_error_for_its_peers() -> None:
    with RankProcesses(2) as ranks:
        ranks.connect(Mesh(2, 1), timeout_s=60)
        ranks.ask(1, tasks.total)  # waits for rank 0
        begin = time.monotonic()
        ranks.ask(0, tasks.exit_at_once)
        with pytest.raises(DeviceFault):
            ranks.answer(1)
        assert time.monotonic() - begin < 10


@pytest.mark.slow
def test_a_rank_that_never_comes_is_an_error_in_time() -> None:
    with RankProcesses(1) as ranks:
        begin = time.monotonic()
        with pytest.raises(DeviceFault, match="rank 0 of 2"):
            ranks.connect(Mesh(2, 1), timeout_s=2)
        assert time.monotonic() - begin < 10


def test_ulysses_is_preferred_as_far_as_the_heads_divide() -> None:
    assert choose_mesh(1, 0, 0, 24) == Mesh(1, 1)
    assert choose_mesh(8, 0, 0, 24) == Mesh(8, 1)
    assert choose_mesh(16, 0, 0, 24) == Mesh(8, 2)
    assert choose_mesh(5, 0, 0, 24) == Mesh(1, 5)
    assert choose_mesh(4, 2, 0, 24) == choose_mesh(4, 0, 2, 24) == Mesh(2, 2)


MESHES_OF_16 = "; ".join(f"ulysses = {n}, ring = {16 // n}" for n in (1, 2, 4, 8))


@pytest.mark.parametrize(
    ("degree", "ulysses", "ring", "heads", "message"),
    [
        (4, 2, 1, 24, "ulysses * ring = 2 * 1 = 2, but cp = 4"),
        (4, 0, 3, 24, "1 * 3 = 3, but cp = 4"),
        (2, 0, 4, 24, "1 * 4 = 4, but cp = 2"),
        (5, 5, 0, 24, "24 % 5 = 4. Use the ring"),
        (16, 16, 1, 24, f"With 24 heads, cp = 16 can be: {MESHES_OF_16}"),
    ],
)
def test_an_impossible_mesh_is_refused_with_the_arithmetic_and_what_is_possible(
    degree: int, ulysses: int, ring: int, heads: int, message: str
) -> None:
    with pytest.raises(JobError) as refusal:
        choose_mesh(degree, ulysses, ring, heads)
    assert message in str(refusal.value)


def test_a_mesh_can_be_checked_without_torch() -> None:
    code = "import sys, batchgen.engine.parallel.mesh; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    check_mesh(4, 2, 2, 24)


def test_shares_are_contiguous_and_equal_to_within_one() -> None:
    assert shares(10, 4) == (3, 3, 2, 2)
    assert shares(2, 4) == (1, 1, 0, 0)
    assert shares(0, 2) == (0, 0)


def devices() -> list[tuple[str, str, torch.dtype]]:
    fp32, bf16 = torch.float32, torch.bfloat16
    needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    cuda = [("flash", bf16), ("cudnn", bf16), ("math", fp32), ("sdpa", fp32), ("sdpa", bf16)]
    return [
        *product(("cpu",), ("sdpa", "flash", "math"), (fp32, bf16)),
        *(pytest.param("cuda", *case, marks=[pytest.mark.cuda, needs_cuda]) for case in cuda),
    ]


@pytest.mark.parametrize(("device", "kernel", "dtype"), devices())
def test_parts_of_the_keys_merge_into_attention_to_all(
    device: str, kernel: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 70, 3, 64, device=device, dtype=dtype)
    attend = choose_attend_part(kernel)
    out, lse = attend(q, k[:, :33], v[:, :33])
    out, lse = merge(out.float(), lse, *attend(q, k[:, 33:], v[:, 33:]))
    scores = torch.einsum("rqhe,rkhe->rhqk", q.float(), k.float()) / 8
    expected = torch.einsum("rhqk,rkhe->rqhe", scores.softmax(-1), v.float())
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    assert (out - expected).abs().max() < tolerance
    assert lse.dtype == torch.float32
    assert (lse - scores.logsumexp(-1)).abs().max() < tolerance


def test_on_cuda_the_ring_has_a_kernel_for_fp32_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flash takes 16 bits only, and was asked. The shapes are what PyTorch says of its kernel."""
    monkeypatch.setattr(log_sum_exp, "_flash", None)
    with FakeTensorMode():
        q, k = (torch.empty(2, tokens, 3, 64, device="cuda") for tokens in (37, 70))
        out, lse = choose_attend_part("sdpa")(q, k, k)
    assert (out.shape, out.dtype) == ((2, 37, 3, 64), torch.float32)
    assert (lse.shape, lse.dtype) == ((2, 3, 37), torch.float32)


def test_a_merge_does_not_overflow_and_a_part_without_weight_changes_nothing() -> None:
    out, other = torch.randn(2, 1, 5, 2, 8)
    lse = torch.full((1, 2, 5), 3e4)
    for far in (-3e4, float("-inf")):
        merged, merged_lse = merge(out, lse, other, torch.full_like(lse, far))
        assert torch.equal(merged, out)
        assert torch.equal(merged_lse, lse)


def test_a_kernel_without_log_sum_exp_is_refused_for_the_ring() -> None:
    with pytest.raises(JobError, match="these do: sdpa, flash, cudnn, fa3, math"):
        choose_attend_part("sage")
