"""[splits]: which prompts are kept from training, and what is refused."""

from itertools import pairwise

import pytest

from batchgen.errors import JobError
from batchgen.settings.job import Job, load_job, parse_job
from batchgen.settings.splits import Splits, prompt_place

PROMPTS = [f"a cat number {n}" for n in range(5_000)]


def of(splits: Splits, name: str) -> set[str]:
    low, high = splits.bounds().get(name, (0.0, 0.0))
    return {prompt for prompt in PROMPTS if low <= prompt_place(prompt) < high}


def test_each_prompt_is_in_one_split_and_about_the_share_in_each() -> None:
    """Within five standard deviations of a fair draw."""
    splits = Splits(validation=0.02, test=0.1)
    for name, share in {"train": 0.88, "validation": 0.02, "test": 0.1}.items():
        deviation = (len(PROMPTS) * share * (1 - share)) ** 0.5
        assert abs(len(of(splits, name)) - share * len(PROMPTS)) < 5 * deviation
    assert sum(len(of(splits, name)) for name in splits.bounds()) == len(PROMPTS)


def test_the_bounds_of_splits_touch_and_cover_everything() -> None:
    bounds = sorted(Splits(validation=0.3, test=0.3).bounds().values())
    assert (bounds[0][0], bounds[-1][1]) == (0.0, 1.0)
    assert all(one[1] == other[0] for one, other in pairwise(bounds))
    assert Splits().bounds() == {"train": (0.0, 1.0)}


def test_a_larger_share_keeps_the_prompts_of_a_smaller_and_leaves_the_other_split_alone() -> None:
    few, more = Splits(validation=0.02, test=0.1), Splits(validation=0.2, test=0.1)
    assert of(few, "validation") < of(more, "validation")
    assert of(few, "test") == of(more, "test")


def test_the_place_is_a_hash_of_the_text_alone() -> None:
    """It is pinned: another hash would move prompts from one side to the other."""
    assert prompt_place("a red circle") == 0.3789385580597736
    assert prompt_place("ein roter Kreis, größer 🐈") == 0.7368481150596526
    assert prompt_place("a red circle ") != prompt_place("a red circle")


def test_no_picture_depends_on_it() -> None:
    job = load_job(None, ["splits.validation=0.02", "splits.test=0.1"])
    assert job.splits == Splits(validation=0.02, test=0.1)
    assert job.identity() == load_job(None).identity()
    assert "splits" not in Job().identity()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("validation", -0.1),
        ("validation", 1),
        ("validation", "0.1"),
        ("validation", float("nan")),
        ("test", True),
        ("dev", 0.1),
        ("train", 0.9),
    ],
)
def test_impossible_values_are_refused(key: str, value: object) -> None:
    with pytest.raises(JobError, match=rf"splits\.{key}"):
        parse_job({"splits": {key: value}}, "a test")


def test_splits_that_leave_nothing_to_train_on_are_refused() -> None:
    told = r"splits\.validation = 0\.5 and splits\.test = 0\.5 leave nothing to train on: expected"
    with pytest.raises(JobError, match=told):
        load_job(None, ["splits.validation=0.5", "splits.test=0.5"])
