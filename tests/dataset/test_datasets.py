"""Hugging Face datasets loads a run's folder: one split, the right types, every good picture."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support.rehearsal import Answer, ask, records, rehearse, write_prompts

Finished = tuple[Path, Answer]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`load_dataset` with a cache of its own."""
    import datasets

    cache = str(tmp_path_factory.mktemp("cache"))
    return lambda run, **options: datasets.load_dataset(str(run), **{"cache_dir": cache} | options)


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
    extra = features.pop("extra")
    assert extra.pop("tags").feature.dtype == "string"
    assert {name: value.dtype for name, value in extra.items()} == {
        **dict.fromkeys(("score", "weight"), "float64"),
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


# Column → its type, its value in the last row, and what that is in JSON.
LATE: dict[str, tuple[pa.DataType, Any, Any]] = {
    "whole": (pa.int32(), 7, 7),
    "yes": (pa.bool_(), True, True),
    "score": (pa.float32(), 0.5, 0.5),
    "words": (pa.large_list(pa.string()), ["a", "b"], ["a", "b"]),
    "grid": (pa.list_(pa.list_(pa.uint8())), [[1], [2, 3]], [[1], [2, 3]]),
    "about": (
        pa.struct({"x": pa.float64(), "of": pa.list_(pa.struct({"name": pa.string()}))}),
        {"x": 0.5, "of": [{"name": "n"}]},
        {"x": 0.5, "of": [{"name": "n"}]},
    ),
    "pairs": (pa.map_(pa.string(), pa.float64()), [("k", 2.0)], [{"key": "k", "value": 2.0}]),
    "when": (pa.duration("s"), 1, 1.0),
    "large": (pa.uint64(), 2**64 - 1, str(2**64 - 1)),
    "free": (pa.json_(), '{"a": [1, "x"]}', '{"a":[1,"x"]}'),
    "text": (pa.string_view(), "t", "t"),
}
EMPTY = {"words": [], "grid": [[]], "about": {"x": None, "of": []}, "pairs": []}


@pytest.mark.parametrize("exported", [False, True])
@pytest.mark.parametrize("first", [{}, EMPTY], ids=["nulls", "empty"])
def test_types_are_stated_so_that_columns_may_begin_with_nothing(
    load: Any, tmp_path: Path, first: dict[str, Any], exported: bool
) -> None:
    columns = {
        name: pa.array([*[first.get(name)] * 8, value], type_)
        for name, (type_, value, _) in LATE.items()
    }
    run, copy = tmp_path / "run", tmp_path / "copy"
    prompts = [f"a cat {n}" for n in range(9)]
    write_prompts(tmp_path / "run-prompts.parquet", prompts, **columns)
    rehearse(run, prompts)
    if exported:
        assert ask("export", run, copy).code == 0
    # The cache has kept a run in a folder of this name before.
    loaded = load(copy if exported else run, split="train")
    found = [row["json"]["extra"] for row in loaded]
    nothing = dict.fromkeys(LATE) | dict.fromkeys(("large", "free", "text"), "")
    assert found == [nothing | first] * 8 + [{name: late for name, (*_, late) in LATE.items()}]
    written = [
        json.load(tar.extractfile(member))  # type: ignore[arg-type]
        for tar in map(tarfile.open, sorted((run / "data").glob("*.tar")))
        for member in tar
        if member.name.endswith(".json")
    ]
    assert [one["extra"] for one in written] == found
    assert {*written[0]} == {*loaded.features["json"]}
