"""The pictures of a report are spread evenly over the run, and small whatever they were."""

import base64
import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from batchgen.dataset.report.gallery import (
    THUMB_BYTES,
    sample_failures,
    sample_pictures,
    thumbnail,
    worst_pictures,
)
from batchgen.dataset.report.numbers import Audited
from batchgen.dataset.spread import spread
from batchgen.errors import DamagedRun
from batchgen.run.run import Run
from batchgen.settings import Output
from batchgen.shard import read_done
from batchgen.worker.samples import encode_image
from tests.dataset.report.specimen import published_run
from tests.support.rehearsal import records


def ordinals(counts: list[int], most: int) -> list[int]:
    """The ordinals that are chosen, over all places."""
    begins = np.cumsum([0, *counts])
    return [int(begins[at]) + one for at, ours in spread(counts, most) for one in ours]


def test_a_sample_is_the_middles_of_equal_parts() -> None:
    assert ordinals([3, 0, 5, 2], 5) == [1, 3, 5, 7, 9]
    assert ordinals([1000] * 1000, 4) == [125_000, 375_000, 625_000, 875_000]


@pytest.mark.parametrize("counts", [[], [0], [1], [2, 0, 1], [7, 7]])
def test_where_there_is_room_all_are_shown(counts: list[int]) -> None:
    assert ordinals(counts, 100) == list(range(sum(counts)))


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@pytest.mark.parametrize("side", [16, 300])
@pytest.mark.parametrize("kind", ["flat", "noise"])
def test_a_thumbnail_is_small_and_has_the_pictures_shape(side: int, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (side // 2, side, 3), np.uint8)
    pixels = noise if kind == "noise" else np.full_like(noise, 40)
    uri = thumbnail(encode_image(pixels, Output(format="png")))
    thumb = decoded(uri)
    assert len(uri) < THUMB_BYTES * 4 / 3 + 100
    assert thumb.width == 2 * thumb.height
    assert thumb.width <= min(side, 256)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return published_run(tmp_path_factory.mktemp("report"))


def test_good_and_failed_pictures_come_with_their_whole_records(run: Run) -> None:
    done = [read_done(run.directory, shard) for shard in range(3)]
    rows = records(run.directory.root)
    good, failed = sample_pictures(run.directory, done, "jpg"), sample_failures(run.directory, done)
    assert [one.record for one in good] == [row for row in rows if row["outcome"] == "ok"]
    assert [one.record for one in failed] == [row for row in rows if row["outcome"] == "failed"]
    for one in good:
        size = decoded(one.thumb).size
        assert size == (one.record["width"], one.record["height"])
        assert one.member == f"{one.record['index']:09d}.jpg"
        assert one.computed == one.record["skipped"].count("0")


def test_the_named_pictures_come_in_the_order_of_their_names(run: Run) -> None:
    worst = [Audited(20.0, 2, 16), Audited(21.0, 0, 0), Audited(22.0, 2, 20)]
    entries = worst_pictures(run.directory, worst, "jpg")
    assert [one.record["index"] for one in entries] == [16, 0, 20]


def test_a_picture_that_is_gone_is_told_with_the_remedy(tmp_path: Path) -> None:
    run = published_run(tmp_path, 8)
    done = [dataclasses.replace(read_done(run.directory, 0))]
    tar = run.directory.data(0)
    tar.write_bytes(tar.read_bytes()[:700])
    with pytest.raises(DamagedRun, match=r"000000\.tar: a picture cannot be read.*--deep --repair"):
        sample_pictures(run.directory, done, "jpg")
