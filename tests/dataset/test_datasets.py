"""Hugging Face datasets loads a run's folder: one split, the right types, every good picture."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.rehearsal import Answer, records

Finished = tuple[Path, Answer]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`load_dataset` with a cache of its own."""
    import datasets

    cache = str(tmp_path_factory.mktemp("cache"))
    return lambda run, **options: datasets.load_dataset(str(run), cache_dir=cache, **options)


@pytest.fixture(scope="module")
def good(finished: Finished) -> list[int]:
    return [record["index"] for record in records(finished[0]) if record["outcome"] == "ok"]


def test_a_folder_named_like_splits_is_one_split_called_train(
    load: Any, finished: Finished, good: list[int]
) -> None:
    loaded = load(finished[0])
    assert {name: split.num_rows for name, split in loaded.items()} == {"train": len(good)}
    assert [int(key) for key in loaded["train"]["__key__"]] == good


def test_numbers_keep_their_types_and_so_do_travelling_columns(
    load: Any, finished: Finished
) -> None:
    features = load(finished[0], split="train").features["json"]
    assert {name: value.dtype for name, value in features.pop("extra").items()} == {
        **dict.fromkeys(("score", "tags"), "string"),
        "weight": "float64",
        "rank": "int64",
    }
    types = {name: value.dtype for name, value in features.items()}
    floats, integers = (
        ("guidance", "true_cfg"),
        ("row", "image", "seed", "width", "height", "steps"),
    )
    assert {types[name] for name in floats} == {"float64"}
    assert {types[name] for name in integers} == {"int64"}
    words = ("key", "id", "prompt", "negative_prompt")
    assert {types[name] for name in words} == {"string"}


def test_streaming_gives_the_same_rows_as_the_cache(
    load: Any, finished: Finished, good: list[int]
) -> None:
    streamed = list(load(finished[0], streaming=True)["train"])
    assert [int(row["__key__"]) for row in streamed] == good
    assert all(row["jpg"].size == (row["json"]["width"], row["json"]["height"]) for row in streamed)
    assert [row["json"] for row in streamed] == load(finished[0], split="train")["json"][:]


def test_a_run_renamed_to_the_name_of_a_split_is_still_train(
    load: Any, finished: Finished, good: list[int], tmp_path: Path
) -> None:
    renamed = tmp_path / "validation" / "test"
    renamed.parent.mkdir()
    renamed.symlink_to(finished[0])
    assert {name: split.num_rows for name, split in load(renamed).items()} == {"train": len(good)}
