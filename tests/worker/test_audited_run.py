"""Audited runs of the embedded model, against runs of the same pictures without a cache."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from batchgen.engine.build import build_engine
from batchgen.fidelity import Pixels, psnr, ssim
from batchgen.planning import locate_model
from batchgen.run.run import create
from batchgen.settings.job import load_job
from tests.support.rehearsal import records, write_prompts
from tests.support.specimens import worked
from tests.support.stock import PROMPTS

pytestmark = pytest.mark.slow
SMALL = ["sampling.width=64", "sampling.height=64", "sampling.steps=8", "engine.device=cpu"]
CACHED = ["cache.policy=multistep", "cache.tolerance=0.05"]


def painted(folder: Path, *settings: str) -> tuple[Path, bytes, list[Pixels]]:
    """A run of four pictures in groups of two: its folder, its tar and its pictures."""
    folder.mkdir()
    file = write_prompts(folder / "prompts.parquet", PROMPTS, seed=range(4))
    words = [*SMALL, "engine.batch_size=2", "shards.pictures=4", "output.format=png", *settings]
    job, checkpoint = locate_model(load_job(None, words))
    run, _ = create(folder / "run", [file], job, checkpoint)
    worked(run, build_engine(job, checkpoint))
    tar = (run.directory.root / "data" / "000000.tar").read_bytes()
    with tarfile.open(fileobj=io.BytesIO(tar)) as samples:
        images = [samples.extractfile(f"{key:09d}.png").read() for key in range(4)]
    opened = [np.asarray(Image.open(io.BytesIO(image))) for image in images]
    return run.directory.root, tar, opened


def test_an_audit_measures_what_a_separate_run_without_a_cache_shows(tmp_path: Path) -> None:
    """Where whole groups are audited, no rounding differs: the numbers are the same."""
    _, _, plain = painted(tmp_path / "plain")
    root, audited, cached = painted(tmp_path / "audited", *CACHED, "audit.fraction=1.0")
    _, unaudited, _ = painted(tmp_path / "cached", *CACHED)
    assert audited == unaudited
    found = [(row["audit"], row["psnr"], row["ssim"]) for row in records(root)]
    pairs = list(zip(cached, plain, strict=True))
    assert found == [("measured", psnr(*pair), ssim(*pair)) for pair in pairs]
    assert 20 < min(decibels for _, decibels, _ in found) < 99
    assert all("1" in row["skipped"] and row["audit_s"] > 0 for row in records(root))


def test_a_picture_audited_without_its_group_differs_by_rounding_alone(tmp_path: Path) -> None:
    """Of a picture without the cache, few values of 0 to 255 round the other way."""
    root, _, _ = painted(tmp_path / "all", *CACHED, "audit.fraction=1.0")
    some, _, _ = painted(tmp_path / "some", *CACHED, "audit.fraction=0.5", "sampling.seed=7")
    whole, alone = ({row["index"]: row["psnr"] for row in records(one)} for one in (root, some))
    measured = [key for key, decibels in alone.items() if decibels is not None]
    assert measured == [0, 3], "one of each group"
    assert [alone[key] for key in measured] == pytest.approx([whole[key] for key in measured], 0.01)
