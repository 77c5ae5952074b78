"""A job is refused if its device lacks the precision, or if pictures would depend on each other."""

import subprocess
import sys

import pytest

from batchgen.engine.precision.rules import check_independence, check_precision, check_tokens
from batchgen.errors import JobError


@pytest.mark.parametrize("capability", [None, (8, 9), (9, 0), (12, 0)])
def test_fp8_is_for_cards_since_ada_and_for_cpus(capability):
    check_precision("fp8", "row", capability)
    for linear in ("auto", "bf16", "fp32", "int8"):
        check_precision(linear, "row", capability)


@pytest.mark.parametrize(
    ("linear", "granularity", "capability", "why", "remedy"),
    [
        ("fp8", "row", (8, 6), r"capability 8\.6: FP8 products need 8\.9 ", "linear=int8"),
        ("int8", "row", (7, 0), r"capability 7\.0: int8 products need 7\.5 ", "linear=bf16"),
        ("int8", "tensor", (9, 0), "int8 is scaled per row only", "granularity=row"),
        ("fp8", "tensor", None, "on a CPU: .* reference kernel ", "granularity=row"),
    ],
)
def test_a_device_that_cannot_is_refused_with_a_remedy(
    linear, granularity, capability, why, remedy
):
    with pytest.raises(JobError, match=rf"{why}.*--set precision\.{remedy}"):
        check_precision(linear, granularity, capability)


@pytest.mark.parametrize(
    ("cp", "group", "named"),
    [(2, 1, "cp = 2 ranks"), (1, 8, "groups of 8 pictures"), (4, 2, "groups of .* and cp = 4")],
)
def test_one_scale_for_several_pictures_or_ranks_is_refused_unless_forced(cp, group, named):
    remedies = "precision.granularity=row.*precision.force=true"
    told = f"{named}.*a picture would depend on its neighbours.*{remedies}"
    with pytest.raises(JobError, match=told):
        check_independence("fp8", "tensor", cp=cp, group=group, force=False)
    check_independence("fp8", "tensor", cp=cp, group=group, force=True)
    check_independence("fp8", "row", cp=cp, group=group, force=False)
    check_independence("bf16", "tensor", cp=cp, group=group, force=False)
    check_independence("fp8", "tensor", cp=1, group=1, force=False)


def test_int8_on_cuda_refuses_fewer_than_17_tokens_a_rank():
    with pytest.raises(
        JobError, match="16 text or image tokens a rank: int8 products on CUDA need 17"
    ):
        check_tokens("int8", {512, 33}, 2, cuda=True)
    check_tokens("int8", {512, 34}, 2, cuda=True)
    check_tokens("int8", {1}, 1, cuda=False)
    check_tokens("fp8", {1}, 1, cuda=True)


def test_the_rules_import_no_torch():
    code = "import sys, batchgen.engine.precision.rules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
