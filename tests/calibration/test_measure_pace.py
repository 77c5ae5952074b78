"""A few groups tell this machine's pace; later plans know it, and nothing else is left."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import psutil
import pyarrow as pa
import pytest
from rich.console import Console

from batchgen.calibration import Measuring, refuse_measuring
from batchgen.calibration.measure_pace import GROUPS, _job, _pace, _sample
from batchgen.calibration.measuring_folder import remove_abandoned
from batchgen.errors import BatchgenError, InputError, JobError
from batchgen.planning import Hardware, Plan
from batchgen.planning.estimate import CARD_SECONDS
from batchgen.planning.plan import Shape
from batchgen.run import pin_identity
from batchgen.run.run import Run
from batchgen.settings.job import load_job
from batchgen.shard.partial_shard import PartialShard
from batchgen.shard.publish import publish_shard
from tests.support.rehearsal import ask, wait_until, write_prompts
from tests.support.specimens import picture, planned, record

SMALL = ["sampling.steps=2", "sampling.width=64", "sampling.height=64", "engine.batch_size=2"]


def measuring(plan: Any, *settings: str) -> Measuring:
    job = load_job(None, ["engine.kind=pattern", *settings])
    none: Any = None
    return Measuring(plan, job, none, Hardware(), Console(), [])


def of_shapes(*pictures: int) -> Measuring:
    shapes = tuple(Shape(64 + 16 * at, 64, 4, False, count) for at, count in enumerate(pictures))
    return measuring(Plan.model_construct(shapes=shapes, pictures=sum(pictures), shards=[]))


@pytest.mark.parametrize(
    ("pictures", "chosen"),
    [([5], [5]), ([10, 60, 30], [60]), ([40, 35, 25], [40, 35]), ([10] * 20, [10] * 3)],
)
def test_the_most_common_shapes_are_made_until_they_are_half_of_the_run(
    pictures: list[int], chosen: list[int]
) -> None:
    assert [shape.pictures for shape in of_shapes(*pictures).shapes] == chosen


def test_every_worker_makes_full_groups_of_every_chosen_shape(tmp_path: Path) -> None:
    """Three pictures of a shape are made again and again."""
    widths = [32, 16, 32, 16, 48, 32, 16]
    run = planned(tmp_path, [f"p{at}" for at in range(7)], width=widths, seed=list(range(7)))
    settings = run.job.run.model_copy(update={"workers": 2})
    job = run.job.model_copy(update={"run": settings})
    asked = dataclasses.replace(measuring(run.plan), job=job)
    rows = _sample([], asked, tmp_path).to_pylist()
    first, second = (shape.width for shape in asked.shapes)
    assert {first, second} == {16, 32}
    of_worker = [first] * GROUPS * 2 + [second] * GROUPS * 2
    assert [row["width"] for row in rows] == 2 * of_worker
    assert {row["prompt"] for row in rows if row["width"] == 32} == {"p0", "p2", "p5"}
    assert all(row["seed"] == int(row["prompt"][1:]) for row in rows)
    assert _job(asked).shards.pictures == len(rows) // 2


def published(folder: Path, seconds: Sequence[float], failed: Sequence[int] = ()) -> Run:
    """A run of a shard in groups of two, each picture of which took so long."""
    run = planned(folder, ["a cat"] * len(seconds), f"shards.pictures={len(seconds)}")
    partial = PartialShard(run.directory, 0, 1, [])
    partial.begin(0, len(seconds))
    records = [
        record(
            of=picture(key),
            text_s=0.0,
            denoise_s=took * 2,
            decode_s=0.0,
            group_size=2,
            **({"outcome": "failed", "cause": "exception"} if key in failed else {}),
        )
        for key, took in enumerate(seconds)
    ]
    partial.end(b"", records)
    publish_shard(run.directory, partial, run.plan.shards[0], pa.table({}), run.plan)
    partial.close()
    pin_identity(run.directory, "a device")
    first = records[0]
    shape = Shape(first.width, first.height, first.steps, False, len(seconds))
    return dataclasses.replace(run, plan=run.plan.model_copy(update={"shapes": (shape,)}))


def test_the_first_group_and_failures_do_not_count(tmp_path: Path) -> None:
    run = published(tmp_path, [100.0, 100.0, 1.0, 2.0, 50.0, 3.0], failed=[4])
    pace = _pace(run, measuring(run.plan, "engine.batch_size=2"))
    assert pace.factor == pytest.approx((1 + 2 + 3) / (3 * CARD_SECONDS))
    assert (pace.pictures, pace.device) == (3, "a device")
    assert pace.run.startswith("3 pictures of ")
    assert pace.run.endswith(", made by `plan --measure`,")


def test_the_first_group_of_every_shape_does_not_count(tmp_path: Path) -> None:
    run = published(tmp_path, [100.0, 100.0, 1.0, 1.0, 1.0, 1.0] * 2)
    shapes = tuple(Shape(side, side, 4, True, 5) for side in (32, 16))
    plan = run.plan.model_copy(update={"shapes": shapes})
    pace = _pace(run, measuring(plan, "engine.batch_size=2"))
    assert pace.factor == pytest.approx(1 / CARD_SECONDS)
    assert pace.run.startswith("8 pictures of 32×32 px in 4 steps and 16×16 px in 4 steps, made")


def test_without_one_good_picture_there_is_no_pace(tmp_path: Path) -> None:
    run = published(tmp_path, [1.0] * 4, failed=[2, 3])
    with pytest.raises(BatchgenError, match="no picture of the groups that count could be made"):
        _pace(run, measuring(run.plan, "engine.batch_size=2"))


def test_what_cannot_be_measured_here_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="on a node of the site, without --site"):
        refuse_measuring(load_job(None), Mock())
    with pytest.raises(JobError, match="repeats the steps of other pictures"):
        refuse_measuring(load_job(None, ["cache.policy=replay", "cache.trace=x"]), None)
    file = write_prompts(tmp_path / "p.parquet", ["a"])
    answer = ask("plan", file, "--rehearse", "--measure")
    assert (answer.code, answer.out) == (2, "")
    assert "test cards have no pace; leave one of them out" in answer.err


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder without a cache; temporary files are in it too."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    return tmp_path


def words_of(file: Path) -> list[str]:
    return ["plan", str(file), *(word for one in SMALL for word in ("--set", one))]


@pytest.mark.slow
def test_a_measured_pace_is_told_and_known_to_later_plans(home: Path) -> None:
    words = words_of(write_prompts(home / "p.parquet", ["red", "blue", "green"]))
    before = json.loads(ask(*words, "--json").out)
    assert before["pace"] is None
    measured = ask(*words, "--json", "--measure", "--set", "run.workers=1")
    assert "Making 3 groups with 1 worker" in measured.err
    seen = json.loads(measured.out)
    assert (seen["pace"]["pictures"], seen["device_s"]) == (
        4,
        pytest.approx(before["device_s"] * seen["pace"]["factor"]),
    )
    assert seen["pace"]["run"] == "4 pictures of 64×64 px in 2 steps, made by `plan --measure`,"
    later = ask(*words).out
    assert "assuming the pace of 4 pictures of 64×64 px in 2 steps, made by" in later
    assert not list((home / "tmp").glob("batchgen*"))


def interrupted(home: Path, number: signal.Signals) -> int:
    """A measuring that got a signal while its workers began: its exit code."""
    words = words_of(write_prompts(home / "p.parquet", ["red"]))
    here = {**os.environ, "TMPDIR": str(home / "tmp"), "HOME": str(home)}
    command = [sys.executable, "-m", "batchgen", *words, "--measure"]
    with subprocess.Popen(command, env=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as it:
        folders = home / "tmp"
        wait_until(lambda: bool(list(folders.glob("batchgen-*/run/.batchgen/jobs/*/worker*.json"))))
        assert processes_of(folders)
        remove_abandoned()
        assert list(folders.glob("batchgen*")), "it lives, and its folder is gone"
        it.send_signal(number)
        it.communicate(timeout=60)
    return it.returncode


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_behind(home: Path) -> None:
    assert interrupted(home, signal.SIGINT) != 0
    assert not list((home / "tmp").glob("batchgen*"))
    assert not processes_of(home / "tmp")
    assert not (home / ".cache" / "batchgen" / "pace").exists()


@pytest.mark.slow
def test_what_a_killed_one_left_is_ended_and_removed_by_the_next(home: Path) -> None:
    assert interrupted(home, signal.SIGKILL) == -signal.SIGKILL
    assert list((home / "tmp").glob("batchgen*"))
    remove_abandoned()
    assert not list((home / "tmp").glob("batchgen*"))
    # submitit's own process sees a moment later that its worker is gone.
    wait_until(lambda: not processes_of(home / "tmp"))


@pytest.mark.parametrize("owner", [None, "", "{}", '{"host": "elsewhere", "pid": 1, "started": 1}'])
def test_a_folder_whose_owner_is_not_known_to_be_dead_stays(home: Path, owner: str | None) -> None:
    folder = home / "tmp" / "batchgen-measure-x"
    folder.mkdir(parents=True)
    if owner is not None:
        (folder / "owner.json").write_text(owner)
    (home / "tmp" / "batchgen-measure-link").symlink_to(folder)
    remove_abandoned()
    assert folder.is_dir()


def processes_of(folder: Path) -> list[int]:
    """Processes whose command names the folder."""
    found = psutil.process_iter(["pid", "cmdline", "status"])
    return [
        one.info["pid"]
        for one in found
        if one.info["status"] != psutil.STATUS_ZOMBIE
        and any(str(folder) in word for word in one.info["cmdline"] or ())
    ]
