"""webdataset reads a finished run, failures in its first shard and a whole shard missing."""

from pathlib import Path
from typing import Any

import pytest
import webdataset as wds
from torch.utils.data import DataLoader

from tests.support.rehearsal import Answer, records

Finished = tuple[Path, Answer]


@pytest.fixture
def tars(finished: Finished) -> list[str]:
    return [str(path) for path in sorted(finished[0].glob("data/*.tar"))]


@pytest.fixture
def good(finished: Finished) -> list[str]:
    return [record["key"] for record in records(finished[0]) if record["outcome"] == "ok"]


def test_webdataset_gives_every_good_picture_in_order(tars: list[str], good: list[str]) -> None:
    samples = list(wds.WebDataset(tars, shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in samples] == good
    assert all(
        sample["jpg"].size == (sample["json"]["width"], sample["json"]["height"])
        for sample in samples
    )


def test_a_shuffled_loader_with_two_workers_gives_every_good_picture_once(
    tars: list[str], good: list[str]
) -> None:
    shuffled = (
        wds.WebDataset(tars, shardshuffle=10, seed=1)
        .shuffle(100)
        .decode("torchrgb")
        .to_tuple("jpg", "__key__")
    )
    loaded: Any = DataLoader(shuffled, batch_size=None, num_workers=2)
    keys = [key for _picture, key in loaded]
    assert sorted(keys) == good
    assert keys != good
