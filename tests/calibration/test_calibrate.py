"""`batchgen calibrate`, as a person types it."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from batchgen.calibration import (
    Floor,
    Found,
    Maker,
    Search,
    Trial,
    Unmade,
    begin,
    grid_of,
    sample_manifest,
    try_settings,
)
from batchgen.calibration.compare import Measured
from batchgen.checked_json import unseal
from batchgen.planning import UNKNOWN, locate_model
from batchgen.settings.job import load_job
from tests.support.rehearsal import alive, ask, owners, records, status, wait_until, write_prompts

PROMPTS = Path(__file__).parents[2] / "manifests" / "prompts.parquet"


def pixels(run: Path) -> dict[str, Any]:
    """The pictures of a run by the name of their file."""
    found = {}
    for path in run.glob("data/*.tar"):
        with tarfile.open(path) as tar:
            for name in (one for one in tar.getnames() if one.endswith(".png")):
                stream = tar.extractfile(name)
                assert stream
                found[name] = np.asarray(Image.open(io.BytesIO(stream.read())), float)
    return found


@pytest.mark.slow
def test_a_killed_calibration_continues_and_tells_what_the_pictures_say(tmp_path: Path) -> None:
    """It is killed with all its processes while the first setting's workers work."""
    prompts = pq.read_table(PROMPTS)
    keep = ["prompt", "negative_prompt", "true_cfg", "width", "height"]
    pq.write_table(prompts.select(keep).slice(0, 40), tmp_path / "p.parquet")
    root = tmp_path / "c"
    words = ["calibrate", tmp_path / "p.parquet", "--out", root, "--pictures", 6, "--min-ssim", 0]
    words += ["--tolerance", 0.01, "--tolerance", 0.4, "--min-psnr", 30, "--share", 0.5]
    words += [
        "--set",
        "sampling.steps=10",
        "--set",
        "run.workers=1",
        "--set",
        "engine.batch_size=3",
    ]
    command = [sys.executable, "-m", "batchgen", *map(str, words)]
    first = root / "multistep-0.01"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as calibrate:
        wait_until(lambda: bool(owners(first, "worker")))
        calibrate.kill()
    for process in owners(first, "supervisor") + owners(first, "worker"):
        if alive(process):
            os.kill(process, signal.SIGKILL)
    before = owners(root / "uncached", "worker")

    answer = ask(*words)
    assert (answer.code, answer.err) == (0, "")
    assert owners(root / "uncached", "worker") == before
    plain = pixels(root / "uncached")
    assert len(plain) == 6
    assert all(record["skipped"] == "" for record in records(root / "uncached"))
    found = unseal((root / "calibration.json").read_bytes())
    for tried in found["tried"]:
        run = root / tried["name"]
        assert (status(run)["state"], status(run)["ok"]) == ("complete", 6)
        errors = [np.mean((image - plain[name]) ** 2) for name, image in pixels(run).items()]
        assert tried["psnr_db"][1] == pytest.approx(10 * np.log10(255**2 / max(errors)))
        computed = [record["skipped"].count("0") for record in records(run)]
        assert tried["computed"] == pytest.approx(np.mean(computed))
        assert 0 < tried["computed"] < tried["steps"] == 10
    chosen = load_job(root / "job.toml").cache
    # On a busy machine six pictures may have taken longer with a cache than without.
    name = f"multistep-{chosen.tolerance:g}" if chosen.policy == "multistep" else "uncached"
    assert f"→ {name}" in answer.out
    kept, again = (root / "job.toml").read_bytes(), ask(*words)  # nothing is left to be made
    assert again.out in answer.out
    assert (root / "job.toml").read_bytes() == kept
    # What was compared is compared again if it cannot be read, and then the devices count.
    (root / "multistep-0.01.json").write_text("{")
    (first / ".batchgen" / "identity.json").write_text("another GPU")
    refused = ask(*words)
    assert refused.code == 2
    assert f"{first} was made on 'another GPU'" in refused.err


def working(calibration: Path, name: str) -> Iterator[Path]:
    """Runs whose names begin so, and which have workers."""
    runs = (path for path in calibration.glob(f"{name}*") if path.is_dir())
    return (run for run in runs if owners(run, "worker"))


def measured(name: str, psnr_db: float) -> Measured:
    picture = SimpleNamespace(psnr_db=psnr_db, ssim=1.0)
    return SimpleNamespace(name=name, pictures=(picture,))  # type: ignore[return-value]


def test_on_this_machine_a_policy_ends_at_its_first_setting_below_the_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decibels = {"multistep-0.02": 30.0}
    monkeypatch.setattr(
        "batchgen.calibration.making.measure",
        lambda trial, _: measured(trial.name, decibels.get(trial.name, 50.0)),
    )
    grid, made = grid_of(tmp_path, load_job(None), [0.01, 0.02, 0.03], [0.1]), []
    _, tried = try_settings(
        grid, Floor(40, 0.9, 0.5), lambda one: made.append(one.name), Console(), wait=True
    )
    assert made == ["uncached", "multistep-0.01", "multistep-0.02", "first_block-0.1"]
    assert [[one.name for one in family] for family in tried] == [made[:1], made[1:3], made[3:]]


def test_on_a_cluster_everything_is_submitted_and_the_same_command_compares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []

    def submit(trial: Any) -> Any:
        made.append(trial.name)
        return SimpleNamespace(finished=trial.name == "uncached")

    grid = grid_of(tmp_path, load_job(None), [0.01, 0.02], [])
    with pytest.raises(Unmade) as ended:
        try_settings(grid, Floor(40, 0.9, 0.5), submit, Console(), wait=False)
    assert ended.value.exit_code == 3
    assert made == ["uncached", "multistep-0.01", "multistep-0.02"]
    told = capsys.readouterr().out
    assert "2 runs to wait for" in told
    assert f"batchgen status {tmp_path}/multistep-0.01 --watch" in told.replace("\n", "")


def test_on_a_cluster_settings_with_schedules_come_once_their_runs_are_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is known is submitted at once; what is not is waited for, and then tried likewise."""
    monkeypatch.setattr(
        "batchgen.calibration.making.measure", lambda trial, _: measured(trial.name, 50.0)
    )
    grid, made = grid_of(tmp_path, load_job(None), [0.01], []), []
    recorded, scheduled = (Trial(name, tmp_path / name, load_job(None)) for name in ("r", "s"))

    def submit(trial: Any) -> Any:
        made.append(trial.name)
        return SimpleNamespace(finished=True)

    given = [grid, Floor(40, 0.9, 0.5), submit, Console()]
    with pytest.raises(Unmade):
        try_settings(*given, wait=False, search=lambda _: Found(waiting=recorded))
    assert made == ["uncached", "multistep-0.01"]
    assert f"status {tmp_path}/r --watch" in capsys.readouterr().out.replace("\n", "")
    whole, tried = try_settings(*given, wait=False, search=lambda _: Found([[scheduled]]))
    assert [[one.name for one in family] for family in whole][2:] == [["s"]]
    assert [one.name for one in tried[2]] == ["s"]


@pytest.mark.slow
def test_a_killed_calibration_finds_the_same_schedules_and_a_run_computes_them(
    tmp_path: Path,
) -> None:
    """It is killed with all its processes in both runs from which schedules are found."""
    prompts = pq.read_table(PROMPTS).select(["prompt", "negative_prompt", "true_cfg"])
    pq.write_table(prompts.slice(0, 40), tmp_path / "p.parquet")
    settings = ["sampling.steps=10", "run.workers=1"]
    words = ["calibrate", tmp_path / "p.parquet", "--pictures", 4, "--computed", 0.3]
    words += [part for one in settings for part in ("--set", one)]
    words += ["--min-psnr", 0, "--min-ssim", 0, "--share", 0.5]
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "batchgen", *map(str, words), "--out", str(killed)]
    for name in ("recorded", "searched"):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as calibrate:
            while not any(working(killed, name)):
                assert calibrate.poll() is None, "it ended"
                time.sleep(0.1)
            calibrate.kill()
        (run,) = working(killed, name)
        for process in owners(run, "supervisor") + owners(run, "worker"):
            if alive(process):
                os.kill(process, signal.SIGKILL)
    answer = ask(*words, "--out", killed)
    assert (answer.code, answer.err) == (0, "")
    made = load_job(killed / "schedule-0.3" / ".batchgen" / "job.toml").cache.classes

    job, checkpoint = locate_model(load_job(None, settings))
    sample, others = sample_manifest([str(tmp_path / "p.parquet")], job, checkpoint, 4, 0)
    begin(whole, sample)
    maker = Maker(None, checkpoint, UNKNOWN, Console(quiet=True), [])
    found = Search(whole, job, sample, others, [0.3]).run(maker.make)
    assert [family[0].job.cache.classes for family in found.families] == [made, made]

    (table,) = killed.glob("searched-*.parquet")
    tried = {row["trace"] for row in pq.read_table(table).to_pylist()}
    assert len({one.negative_prompt for one in made}) == len(made) == 2
    for one in made:
        trace = "".join("0" if step in one.computed else "1" for step in range(10))
        assert trace in tried
        pictures = records(killed / "schedule-0.3")
        mine = [its for its in pictures if bool(its["negative_prompt"]) == one.negative_prompt]
        assert {its["skipped"] for its in mine} == {trace}


def test_bad_input_leaves_nothing(tmp_path: Path) -> None:
    file, root = write_prompts(tmp_path / "p.parquet", ["a cat", ""]), tmp_path / "c"
    for words, told in (
        (["--tolerance", 0], "greater than 0"),
        (["--set", "cache.polcy=none"], "unknown key"),
        ([], "prompt"),
    ):
        answer = ask("calibrate", file, "--out", root, "--rehearse", *words)
        assert answer.code == 2
        assert told in answer.err
        assert not root.exists()
