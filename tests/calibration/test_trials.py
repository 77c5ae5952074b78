"""What is tried: the job with other caches, in a folder that holds one calibration."""

from pathlib import Path

import pyarrow as pa
import pytest

from batchgen.calibration.trials import begin, grid_of
from batchgen.errors import JobError, OutputError
from batchgen.settings import ClassSchedule
from batchgen.settings.job import Audit, Cache, ManifestSettings, Output, Shards, load_job

SAMPLE = pa.table({"prompt": ["a cat"], "seed": [1]})


def names(root: Path, *settings: str, **given: list[float] | None) -> list[list[str]]:
    wanted = {"tolerances": None, "thresholds": None} | given
    return [
        [t.name for t in family] for family in grid_of(root, load_job(None, [*settings]), **wanted)
    ]


def test_the_usual_grid_goes_from_careful_to_bold_after_the_run_without_a_cache() -> None:
    uncached, *families = names(Path("c"))
    assert uncached == ["uncached"]
    for family in families:
        values = [float(name.rpartition("-")[2]) for name in family]
        assert values == sorted(values)
        assert len(values) >= 4


def test_what_is_asked_for_takes_the_place_of_the_grid() -> None:
    assert names(Path("c"), tolerances=[0.02, 0.01, 0.02]) == [
        ["uncached"],
        ["multistep-0.01", "multistep-0.02"],
    ]
    assert names(Path("c"), tolerances=[0.01000000001, 0.01])[1] == [
        *("multistep-0.01", "multistep-0.01000000001")
    ]


def test_the_own_setting_of_the_job_is_tried_too() -> None:
    own = ["cache.policy=first_block", "cache.threshold=0.25", "cache.warmup=2"]
    assert names(Path("c"), *own, thresholds=[0.1]) == [
        ["uncached"],
        ["first_block-0.1", "first_block-0.25"],
    ]
    grid = grid_of(Path("c"), load_job(None, own), [0.01], [0.1])
    assert [trial.job.cache.warmup for family in grid for trial in family] == [0, 0, 2, 2]
    assert names(Path("c"), "cache.policy=teacache", tolerances=[0.01])[2] == ["teacache-0.4"]


def test_own_schedules_are_tried_beside_tolerances() -> None:
    one = ClassSchedule(
        pixels=2**14, steps=28, negative_prompt=False, computed=(0, 9), errors=(0.1,)
    )
    own = Cache(policy="multistep", classes=(one,))
    job = load_job(None).model_copy(update={"cache": own})
    _, tolerances, mine = grid_of(Path("c"), job, [0.01, 0.02], None)
    assert [trial.name for trial in mine] == ["multistep+classes"]
    assert mine[0].job.cache == own
    assert [trial.job.cache for trial in tolerances] == [
        Cache(policy="multistep", tolerance=tolerance) for tolerance in (0.01, 0.02)
    ]


def test_only_what_a_comparison_needs_differs_from_the_job() -> None:
    settings = ["output.quality=80", "shards.pictures=3", "engine.batch_size=2"]
    audit = ["cache.policy=multistep", "audit.fraction=0.5"]
    job = load_job(None, [*settings, *audit], ["prompt=p"])
    replaced = {"output": Output(format="png", license=job.output.license), "shards": Shards()}
    for family in grid_of(Path("c"), job, [0.01], None):
        for trial in family:
            expected = job.model_copy(
                update={
                    **replaced,
                    "manifest": ManifestSettings(),
                    "cache": trial.job.cache,
                    "audit": Audit(),
                }
            )
            assert trial.job == expected
    assert grid_of(Path("c"), job, [0.01], None)[0][0].job.cache == Cache()


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(JobError, match=r"--tolerance 0:\n.*greater than 0"):
        names(Path("c"), tolerances=[0.0])
    with pytest.raises(JobError, match="replay"):
        names(Path("c"), "cache.policy=replay", "cache.trace=there")


def test_a_folder_holds_one_calibration(tmp_path: Path) -> None:
    begin(tmp_path / "c", SAMPLE)
    begin(tmp_path / "c", SAMPLE)
    with pytest.raises(OutputError, match="calibration of another sample"):
        begin(tmp_path / "c", SAMPLE.append_column("steps", [[4]]))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(OutputError, match="not empty and not a calibration"):
        begin(tmp_path / "mine", SAMPLE)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    (tmp_path / "run" / ".batchgen").mkdir(parents=True)
    (tmp_path / "run" / ".batchgen" / "plan.json").touch()
    with pytest.raises(OutputError, match="is a run"):
        begin(tmp_path / "run", SAMPLE)
