"""Table, plot and job file say what was measured."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pyarrow as pa
import pytest
from PIL import Image

from batchgen.calibration.choice import Floor
from batchgen.calibration.compare import Likeness, Measured
from batchgen.calibration.report import Report, table_lines, write_report
from batchgen.calibration.trials import Trial, grid_of
from batchgen.checked_json import unseal
from batchgen.planning import ModelDigest, locate_model
from batchgen.settings import ClassSchedule
from batchgen.settings.job import Cache, load_job, to_toml

OWN = ["cache.policy=first_block", "cache.threshold=0.2", "model.path=tiny", "output.quality=90"]


def measured(name: str, device_s: float, worst_db: float) -> Measured:
    pictures = (Likeness(0, worst_db, 0.99), Likeness(1, worst_db + 10, 1.0))
    return Measured(name, "run", "plain", pictures, 28.0, 7.0, device_s, 0.0)


@pytest.fixture(scope="module")
def report() -> Report:
    job = load_job(None, OWN, ["prompt=caption"])
    tried = [
        [measured("uncached", 1.0, 99.0)],
        [measured("multistep-0.01", 0.25, 45.0), measured("multistep-0.02", 0.2, 35.0)],
        [measured("first_block-0.2", 0.5, 50.0)],
    ]
    sample = pa.table(
        {"width": [128, 192], "height": [128] * 2, "steps": [28] * 2, "negative_prompt": ["", "x"]}
    )
    grid = grid_of(Path("c"), job, [0.01, 0.02], [])
    return Report(job, ("a.csv", "a\x1b\nb.csv"), sample, 3, Floor(40, 0.9, 0.95), tried, grid)


@pytest.fixture(scope="module")
def written(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what was written of the report."""
    return write_report(tmp_path_factory.mktemp("calibration"), report).parent


def test_the_table_has_a_line_for_each_setting_and_an_arrow_at_the_chosen_one(
    report: Report,
) -> None:
    _, *lines = [re.split(r" {2,}", line.strip()) for line in table_lines(report)]
    numbers = ["7.0/28", "50.0/45.0", "0.995/0.990", "0.250", "14,400", "4.00", "0/2"]
    assert lines[1] == ["→ multistep-0.01", *numbers]
    assert [line[0] for line in lines] == [
        *("uncached", "→ multistep-0.01", "multistep-0.02", "first_block-0.2")
    ]
    assert lines[2][-1] == "1/2"


def test_the_job_file_is_the_job_with_the_choice_and_the_evidence(
    report: Report, written: Path
) -> None:
    path = written / "job.toml"
    chosen = report.job.model_copy(update={"cache": Cache(policy="multistep", tolerance=0.01)})
    assert load_job(path) == chosen
    assert max(map(len, path.read_text().splitlines())) <= 100
    text = path.read_text().replace("\n#", "")  # as if it had not been wrapped
    assert "Chosen: multistep-0.01, the fewest device-seconds" in text
    assert "2 pictures of a.csv, a\\x1b\\nb.csv (seed 3)" in text
    assert "45.0 dB, is one of 128×128, 28 steps." in text


def test_a_threshold_that_another_key_decides_is_read_back_as_it_was(
    report: Report, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text(
        to_toml(load_job(None, ["cache.policy=adacache", "cache.threshold=0.08"]))
    )
    job = load_job(tmp_path / "run.toml")  # as a run has recorded it: nothing counts as written
    assert not job.cache.model_fields_set
    grid = grid_of(Path("c"), job, [], [])
    tried = [[measured("uncached", 1.0, 99.0)], [measured("adacache-0.08", 0.1, 50.0)]]
    write_report(tmp_path, replace(report, job=job, tried=tried, grid=grid))
    assert load_job(tmp_path / "job.toml").cache == job.cache


def test_the_evidence_tells_the_worst_of_every_class(written: Path) -> None:
    found = unseal((written / "calibration.json").read_bytes())
    assert found["cache"] == {"policy": "multistep", "tolerance": 0.01}
    assert found["tried"][0]["classes"] == {
        "128×128, 28 steps": {"pictures": 1, "worst_psnr_db": 45.0, "worst_ssim": 0.99},
        "192×128, 28 steps, negative prompt": {
            "pictures": 1,
            "worst_psnr_db": 55.0,
            "worst_ssim": 1.0,
        },
    }
    assert json.dumps(found)


def test_the_plot_shows_every_setting_the_floor_and_the_choice(written: Path) -> None:
    svg = ET.fromstring((written / "calibration.svg").read_text())
    words = {text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")}
    assert {"0.01", "0.02", "0.2", "multistep", "first_block", "floor 40 dB"} <= words
    circles = list(svg.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(circles) == 2 * 3 + 1  # worst and mean of each, and the choice
    for name in ("cx", "cy"):
        assert all(0 < float(circle.attrib[name]) < 920 for circle in circles)
    image = Image.open(io.BytesIO((written / "calibration.png").read_bytes()))
    assert image.size == (920, 540)
    colours = {colour for _, colour in image.getcolors(10**6)}
    assert (0xB0, 0x30, 0x30) in colours  # the floor's


def test_a_plot_of_one_point_can_be_drawn(report: Report, tmp_path: Path) -> None:
    alone = Report(
        report.job, ("a.csv",), report.sample, 0, Floor(99, 0, 0.95), report.tried[:1], report.grid
    )
    assert load_job(write_report(tmp_path, alone)).cache == Cache()


def test_a_choice_with_schedules_is_written_as_a_file_that_the_job_names(
    report: Report, tmp_path: Path
) -> None:
    located, checkpoint = locate_model(load_job(None))
    assert checkpoint
    one = ClassSchedule(
        pixels=2**14, steps=28, negative_prompt=False, computed=(0, 11, 19), errors=(0.1, 0.2)
    )
    cache = Cache(policy="schedule", classes=(one,))
    grid = [
        report.grid[0],
        [Trial("schedule-0.1", tmp_path, located.model_copy(update={"cache": cache}))],
    ]
    tried = [report.tried[0], [measured("schedule-0.1", 0.1, 45.0)]]
    model = ModelDigest.of(located, checkpoint)
    whole = Report(located, ("a.csv",), report.sample, 3, report.floor, tried, grid, model)
    job = load_job(write_report(tmp_path, whole))
    assert (job.cache.policy, job.cache.classes) == ("schedule", ())
    assert job.cache.model_fields_set == {"policy", "schedule"}
    assert Path(job.cache.schedule).parent == tmp_path
    assert locate_model(job)[0].cache.classes == (one,)
