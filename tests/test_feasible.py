"""What a job asks for and cannot have is said when it is planned, all of it at once."""

import pytest

from batchgen.checkpoint import resolve
from batchgen.errors import JobError
from batchgen.feasible import refuse_impossible
from batchgen.job import parse_job


def refuse(**sections):
    job = parse_job({"model": {"path": "tiny"}, **sections}, "a test")
    refuse_impossible(job, resolve(job.model))


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"parallel": {"cp": 4}, "cache": {"policy": "first_block", "blocks": 5}},
        {"parallel": {"cp": 6, "ulysses": 2, "ring": 3}},
        {"precision": {"linear": "fp8", "granularity": "tensor"}, "engine": {"batch_size": 1}},
        {"precision": {"linear": "fp8", "granularity": "tensor", "force": True}},
    ],
)
def test_what_can_be_had_passes(sections):
    refuse(**sections)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"parallel": {"cp": 3, "ulysses": 3}}, "4 % 3 = 1"),
        ({"parallel": {"cp": 4, "ulysses": 2, "ring": 3}}, "2 \\* 3 = 6, but cp = 4"),
        ({"cache": {"policy": "first_block", "blocks": 6}}, "blocks = 6: the model has 6 blocks"),
        ({"cache": {"policy": "schedule"}}, "needs skip"),
        ({"precision": {"linear": "fp8", "granularity": "tensor"}}, "groups of 8 pictures"),
        ({"engine": {"offload": "layers"}, "compile": {"mode": "default"}}, "layers that move cannot be compiled"),
    ],
)
def test_what_cannot_be_had_is_told(sections, told):
    with pytest.raises(JobError, match=told):
        refuse(**sections)


def test_everything_is_told_at_once():
    with pytest.raises(JobError, match=r"(?s)4 % 3.*needs skip"):
        refuse(parallel={"cp": 3, "ulysses": 3}, cache={"policy": "schedule"})


def test_test_cards_need_nothing():
    refuse_impossible(parse_job({"engine": {"kind": "pattern"}, "parallel": {"cp": 7, "ulysses": 3}}, "a test"), None)
