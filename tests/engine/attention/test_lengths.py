"""Rows with texts of their own lengths attend to no padding, and need no mask."""

import pytest
import torch
from torch import Tensor

from batchgen.engine.attention.lengths import Lengths, RowsAttention
from tests.engine.parallel.rank_tasks import HEADS, WIDTH, rows_alone, sdpa

TEXT, IMAGE = 7, 12


def qkv_of(rows: int) -> Tensor:
    torch.manual_seed(rows)
    return torch.randn(3, rows, TEXT + IMAGE, HEADS, WIDTH)


@pytest.mark.parametrize("own", [(7, 7, 7), (3, 7, 7), (7, 1, 4), (2, 2, 2)])
def test_rows_attend_to_their_own_tokens(own: tuple[int, ...]) -> None:
    """Kernels add up keys in blocks, so that another number of keys rounds differently."""
    qkv = qkv_of(len(own))
    out = RowsAttention(Lengths(TEXT, IMAGE, own), sdpa)(*qkv)
    torch.testing.assert_close(out, rows_alone(qkv, TEXT, own), rtol=1e-5, atol=1e-6)


def test_nothing_in_padding_is_read() -> None:
    qkv, own = qkv_of(2), (3, 5)
    attention = RowsAttention(Lengths(TEXT, IMAGE, own), sdpa)
    clean = attention(*qkv)
    for row, length in enumerate(own):
        qkv[1:, row, length:TEXT] = torch.nan
    assert torch.equal(attention(*qkv), clean)


def test_rows_of_equal_lengths_share_a_call() -> None:
    calls = []

    def counted(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        calls.append((len(q), k.shape[1]))
        return sdpa(q, k, v)

    for own in [(3, 3, 5), None, (7, 7, 7)]:
        RowsAttention(Lengths(TEXT, IMAGE, own), counted)(*qkv_of(3))
    assert calls == [(2, 3 + IMAGE), (1, 5 + IMAGE), (3, TEXT + IMAGE), (3, TEXT + IMAGE)]


def test_the_operator_is_what_it_says() -> None:
    """PyTorch's own checks: its schema and its fake tensors' shapes."""
    attention = RowsAttention(Lengths(TEXT, IMAGE, (3, 4)), sdpa)
    torch.library.opcheck(
        torch.ops.batchgen.attend.default,
        (*qkv_of(2), attention._handle),
        test_utils=("test_schema", "test_faketensor"),
    )
