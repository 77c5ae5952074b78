"""A run may hold pictures that Pillow takes for an attack; other files it still refuses."""

import io
from pathlib import Path

import pytest
from PIL import Image

from batchgen.dataset.open_picture import open_picture
from batchgen.dataset.verify import verify_run
from batchgen.engine.pattern import PatternEngine
from tests.support.specimens import planned, worked

# Pillow refuses pictures of more than twice this number of pixels.
LIMIT = 1500


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow takes the pictures of the tests for an attack, as it takes those over 13,377² px."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", LIMIT)


def test_a_run_of_very_large_pictures_is_finished_and_verified(
    tmp_path: Path, small_limit: None
) -> None:
    size = ("sampling.width=64", "sampling.height=64")
    run = worked(planned(tmp_path, ["a cat", "a dog"], *size), PatternEngine(0.0))
    assert run.directory.complete()
    assert [one.problems for one in verify_run(run, deep=True, manifest=True)] == [[], []]
    assert Image.MAX_IMAGE_PIXELS == LIMIT


def test_the_limit_stays_for_everybody_else(small_limit: None) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    with open_picture(file.getvalue()) as picture:
        assert picture.size == (64, 64)
        with pytest.raises(Image.DecompressionBombError):
            Image.open(io.BytesIO(file.getvalue()))
    with pytest.raises(OSError, match="cannot identify"), open_picture(b"no picture"):
        pass
    assert Image.MAX_IMAGE_PIXELS == LIMIT
