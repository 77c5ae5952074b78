"""A run is made in a new or an empty folder; nothing that is somebody's is touched."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from batchgen.errors import DamagedRun, JobError, OutputError, SiteError
from batchgen.run.directory import RunDirectory
from batchgen.run.place import missing_folders, refuse_letters, refuse_place, unless_started
from batchgen.run.run import Run, create
from batchgen.run.submissions import record_submission
from batchgen.settings.job import load_job
from tests.support.fake_squeue import FakeSqueue
from tests.support.rehearsal import ask, write_prompts
from tests.support.specimens import planned, worked

JOB = load_job(None, ["engine.kind=pattern", "sampling.width=16", "sampling.height=16"])


def contents(root: Path) -> dict[str, bytes | None]:
    """Every name below a folder, and the content of files."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


def put(root: Path, name: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")


FOLDERS = {
    "a README": ["README.md"],
    "tars of another dataset": ["data/a.tar"],
    "its own names in data/": ["data/000000.tar"],
    "an index": ["index.json"],
    "statistics": ["statistics.json", "data/x.txt"],
    "a hidden file": [".git/HEAD"],
    "metadata": ["metadata/000000.parquet"],
    "nested data": ["data/deep/er/x.tar"],
    "work of a run without its plan": [".batchgen/claims/000/000000.0001"],
    "a strange .batchgen": [".batchgen/notes.txt"],
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_with_anything_in_it_is_refused_and_stays_as_it_is(
    name: str, tmp_path: Path
) -> None:
    file, root = write_prompts(tmp_path / "prompts.parquet", ["a cat"]), tmp_path / "mine"
    for path in FOLDERS[name]:
        put(root, path)
    before = contents(root)
    answer = ask("submit", file, "--rehearse", "--out", root)
    assert answer.code == 2, answer
    assert FOLDERS[name][0].split("/")[0] in answer.err
    assert "name a new or an empty folder with --out" in answer.err
    assert contents(root) == before


@pytest.mark.parametrize("inside", [(), ("data",), ("data", "metadata", ".batchgen/claims/000")])
def test_an_empty_folder_is_taken(inside: tuple[str, ...], tmp_path: Path) -> None:
    for name in inside:
        (tmp_path / "run" / name).mkdir(parents=True)
    assert planned(tmp_path).directory.plan.exists()


@pytest.mark.parametrize(
    ("root", "told"),
    [
        ("s3://bucket/x", "not to URLs"),
        ("gs:/bucket/x", "not to URLs"),
        ("hf://datasets/me/x", "not to URLs"),
        ("https://host/x", "not to URLs"),
        ("node7:/scratch/x", "not to URLs or other machines"),
        ("runs/100%", "replace %"),
        ("runs/%j/x", "replace %"),
        ("a\\b", "changes how they do"),
        ("a\nb", r"a\nb: a path with control characters"),
        ("a\x1b[2Jb", r"a\x1b[2Jb: a path with control characters"),
        ("a\udcffb", "a path with control characters or bytes that are not UTF-8"),
    ],
)
def test_a_path_that_others_would_read_differently_is_refused_and_makes_nothing(
    root: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError) as refused:
        create(Path(root), ["prompts.parquet"], JOB, None)
    assert told in str(refused.value)
    assert "--out" in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_the_path_is_refused_before_anything_costs_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = ask("submit", "no-such-manifest.parquet", "--out", "s3://bucket/x")
    assert (answer.code, list(tmp_path.iterdir())) == (2, [])
    assert "not to URLs" in answer.err


def test_a_plan_for_a_cluster_tells_of_the_path_too(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="replace %"):
        refuse_letters(tmp_path / "100%")
    refuse_letters(tmp_path / "a b'c,d=e")


def test_a_folder_inside_of_another_run_is_refused(tmp_path: Path) -> None:
    run = planned(tmp_path)
    with pytest.raises(OutputError, match=f"is inside of the run {run.directory.root}"):
        create(run.directory.root / "data" / "x", run.plan.manifest, JOB, None)
    assert contents(run.directory.root / "data") == {}


def test_a_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "full").mkdir(parents=True)
    put(tmp_path / "home" / "full", "x")
    file = write_prompts(tmp_path / "prompts.parquet", ["a cat"])
    answer = ask("submit", file, "--rehearse", "--out=~/full")
    assert f"{tmp_path}/home/full: not empty" in answer.err


def downloaded(run: Run) -> None:
    shutil.rmtree(run.directory.inner)


def without_plan(run: Run) -> None:
    run.directory.plan.unlink()


@pytest.mark.parametrize(
    ("damage", "told"),
    [(downloaded, "without its folder .batchgen"), (without_plan, "plan.json is gone")],
)
@pytest.mark.parametrize("verb", ["submit", "resume", "status", "verify", "logs", "cancel"])
def test_what_is_left_of_a_run_is_named_and_nothing_is_painted(
    verb: str, damage: Callable[[Run], None], told: str, tmp_path: Path
) -> None:
    run = worked(planned(tmp_path))
    damage(run)
    root, before = run.directory.root, contents(run.directory.root)
    manifest = run.plan.manifest[0]
    words = ["submit", manifest, "--rehearse", "--out", root] if verb == "submit" else [verb, root]
    answer = ask(*words)
    assert answer.code == 2
    assert told in answer.err
    assert contents(root) == before


@pytest.mark.parametrize("error", [SiteError("no partition"), JobError("no")])
def test_a_new_run_whose_first_submission_is_refused_goes_again(
    error: Exception, tmp_path: Path
) -> None:
    root = tmp_path / "runs" / "a"
    file, made = write_prompts(tmp_path / "prompts.parquet", ["a cat"]), missing_folders(root)
    run, _ = create(root, [file], JOB, None)
    put(run.directory.jobs, "0001/submitit/x.sh")
    with pytest.raises(type(error)), unless_started(run.directory, made):
        raise error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["prompts.parquet"]


def script(path: Path, *lines: str) -> None:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)


def test_what_sbatch_refuses_leaves_no_run_behind(
    tmp_path: Path, squeue: FakeSqueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    script(programs / "sbatch", "echo sbatch: error: invalid partition specified >&2", "exit 1")
    script(programs / "scontrol", "echo MaxArraySize = 1001")
    script(programs / "srun", "exit 0")
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    site = tmp_path / "site.toml"
    site.write_text(
        'partition = "nowhere"\ngpus_per_node = 0\nworkers_per_node = 1\ntime = "1:00:00"\n'
    )
    file, root = write_prompts(tmp_path / "prompts.parquet", ["a cat"]), tmp_path / "runs" / "a"
    answer = ask("submit", file, "--rehearse", "--site", site, "--out", root)
    assert answer.code == 2, answer
    assert "invalid partition" in answer.err
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_was_there_before_stays(tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    made = missing_folders(root)
    run = planned(tmp_path)
    with pytest.raises(SiteError), unless_started(run.directory, made):
        raise SiteError("no")
    assert list(root.iterdir()) == []


def test_a_run_with_a_submission_stays(tmp_path: Path) -> None:
    made = missing_folders(tmp_path / "run")
    run = planned(tmp_path)
    record_submission(run.directory, ["batchgen"], 1)
    with pytest.raises(SiteError), unless_started(run.directory, made):
        raise SiteError("no")
    assert RunDirectory.open(run.directory.root)


def test_an_older_run_stays(tmp_path: Path) -> None:
    run = planned(tmp_path)
    with pytest.raises(DamagedRun), unless_started(run.directory, None):
        raise DamagedRun("no")
    assert run.directory.plan.exists()


def test_bad_input_leaves_not_even_the_folder_of_runs(tmp_path: Path) -> None:
    file = write_prompts(tmp_path / "prompts.parquet", [""])
    answer = ask("submit", file, "--rehearse", "--out", tmp_path / "runs" / "a")
    assert answer.code == 2
    assert not (tmp_path / "runs").exists()


def test_a_folder_with_a_plan_is_a_run(tmp_path: Path) -> None:
    run = planned(tmp_path)
    put(run.directory.root, "notes.txt")
    refuse_place(run.directory.root)
