"""A run never changes: other content, weights or settings are refused, and the difference is shown.

A package upgrade is accepted, told and recorded.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from batchgen.model import TINY
from batchgen.planning.planner import locate_model
from batchgen.run.directory import RunDirectory
from batchgen.run.run import create
from batchgen.settings.job import load_job
from tests.support.rehearsal import Answer, ask, settings, write_prompts


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A planned run of the embedded model; no worker was started."""
    file = write_prompts(tmp_path / "prompts.parquet", ["a cat", "a dog"], seed=[1, 2])
    create(tmp_path / "run", [file], *locate_model(load_job(None)))
    return tmp_path / "run"


def again(run: Path, *words: str) -> Answer:
    return ask("submit", run.parent / "prompts.parquet", "--out", run, *words)


CHANGES: dict[str, tuple[dict[str, object], str]] = {
    "run seed": ({"sampling__seed": 1}, "sampling.seed: 0 → 1"),
    "size": ({"sampling__width": 256}, "sampling.width: 128 → 256"),
    "guidance": ({"sampling__guidance": 4.0}, "sampling.guidance: 3.5 → 4.0"),
    "group size": ({"engine__batch_size": 4}, "engine.batch_size: 8 → 4"),
    "precision": ({"precision__linear": "bf16"}, 'precision.linear: "auto" → "bf16"'),
    "image format": ({"output__format": "png"}, 'output.format: "jpg" → "png"'),
    "shards": ({"shards__pictures": 1}, "shards.pictures: null → 1"),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("verb", ["submit", "resume"])
def test_a_changed_setting_is_refused_with_the_difference(name: str, verb: str, run: Path) -> None:
    changed, told = CHANGES[name]
    answer = (
        again(run, *settings(**changed))
        if verb == "submit"
        else ask("resume", run, *settings(**changed))
    )
    assert answer.code == 2
    assert f"\n  {told}\n" in answer.err
    assert "was planned from other inputs, and a run never changes" in answer.err


@pytest.mark.parametrize(
    ("prompts", "seeds"), [(["a cat", "a fox"], [1, 2]), (["a cat", "a dog"], [1, 3])]
)
def test_another_manifest_of_the_same_name_is_refused(
    prompts: list[str], seeds: list[int], run: Path
) -> None:
    write_prompts(run.parent / "prompts.parquet", prompts, seed=seeds)
    answer = again(run)
    assert answer.code == 2
    assert "\n  manifest: [" in answer.err


def edit_in_place(file: Path) -> None:
    data = file.read_bytes()
    assert data.count(b"a dog") >= 1
    file.write_bytes(data.replace(b"a dog", b"a fox"))


def longer(file: Path) -> None:
    write_prompts(file, ["a cat"] * 3)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (edit_in_place, "its size is the same, its sha256 is not"),
        (longer, "bytes then"),
        (Path.unlink, "cannot be read: No such file"),
    ],
)
def test_resume_refuses_a_manifest_that_is_not_what_was_planned(
    damage: Callable[[Path], None], told: str, run: Path
) -> None:
    file = run.parent / "prompts.parquet"
    write_prompts(file, ["a cat", "a dog"], seed=[1, 2])
    os.utime(file, (0, 0))
    damage(file)
    answer = ask("resume", run)
    assert answer.code == 2
    assert str(file) in answer.err
    assert told in answer.err


def test_other_weights_are_refused_naming_the_file(tmp_path: Path) -> None:
    model = shutil.copytree(TINY, tmp_path / "model")
    file = write_prompts(tmp_path / "prompts.parquet", ["a cat"])
    words = settings(
        model__path=model, model__max_sequence_length=32, sampling__width=128, sampling__height=128
    )
    create(tmp_path / "run", [file], *locate_model(load_job(None, words[1::2])))
    weights = model / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    for answer in (
        ask("submit", file, "--out", tmp_path / "run", *words),
        ask("resume", tmp_path / "run"),
    ):
        assert answer.code == 2
        assert 'weights.vae/diffusion_pytorch_model.safetensors: "sha256:' in answer.err


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("steps = 28", "steps = 27", "sampling.steps: 28 → 27"),
        ("steps = 28", "steps = 0", "job.toml:\n  sampling.steps = 0"),
        ("steps = 28", "stops = 28", "sampling.stops: unknown key"),
        ("[sampling]", "[sampling", "job.toml: not TOML"),
    ],
)
def test_a_job_edited_by_hand_in_the_run_directory_is_refused(
    old: str, new: str, told: str, run: Path
) -> None:
    job = RunDirectory(run).job
    job.write_text(job.read_text().replace(old, new))
    answer = ask("resume", run)
    assert answer.code == 2
    assert told in answer.err


def test_the_same_bytes_elsewhere_are_no_change(run: Path, tmp_path: Path) -> None:
    """The manifest's content is part of a run, its path is not: `create` opens the run."""
    moved = tmp_path / "elsewhere.parquet"
    shutil.copy(tmp_path / "prompts.parquet", moved)
    job = load_job(None, ["run.workers=1"])
    _, new = create(run, [moved], *locate_model(job))
    assert not new


@pytest.mark.slow
def test_a_package_upgrade_is_told_and_recorded(tmp_path: Path) -> None:
    file = write_prompts(tmp_path / "prompts.parquet", ["a cat"])
    made, _ = create(tmp_path / "run", [file], load_job(None, ["engine.kind=pattern"]), None)
    old = made.plan.model_copy(update={"software": made.plan.software | {"pillow": "1.0"}})
    made.directory.plan.write_text(old.model_dump_json())
    answer = ask("resume", tmp_path / "run")
    assert answer.code == 0
    assert (
        f"note: pillow was 1.0 when the run was planned and is {made.plan.software['pillow']} now"
        in answer.out
    )
    (job,) = (json.loads(path.read_text()) for path in made.directory.jobs.glob("*.json"))
    assert job["software"] == made.plan.software
