"""A manifest may move, and so may the run; another content is never taken for it."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import ManifestError, PlanChanged
from batchgen.run.run import Run, create, load_plan, open_run
from batchgen.settings.job import load_job
from batchgen.shard.pictures import read_shard
from tests.support.rehearsal import ask, write_prompts
from tests.support.specimens import planned, worked

JOB = load_job(None, ["engine.kind=pattern", "sampling.width=16", "sampling.height=16"])


def prompts(run: Run) -> list[str]:
    groups, _ = read_shard(run, 0)
    return [picture.prompt for group in groups for picture in group]


def test_a_moved_manifest_is_found_again_and_remembered(tmp_path: Path) -> None:
    run = planned(tmp_path, ["a cat", "a dog"])
    moved = tmp_path / "new name.parquet"
    Path(run.plan.sources[0].path).rename(moved)
    with pytest.raises(PlanChanged) as refused:
        open_run(run.directory.root)
    assert str(refused.value).endswith(f"batchgen resume {run.directory.root} --manifest NEW_PATH")
    opened = open_run(run.directory.root, manifest=[moved])
    assert prompts(opened) == prompts(open_run(run.directory.root)) == ["a cat", "a dog"]
    assert opened.plan.fingerprint == run.plan.fingerprint
    assert worked(opened).directory.complete()


def test_the_command_that_is_shown_works(tmp_path: Path) -> None:
    run = worked(planned(tmp_path, ["a cat", "a dog"]))
    moved = tmp_path / "moved.parquet"
    Path(run.plan.sources[0].path).rename(moved)
    assert ask("resume", run.directory.root).code == 2
    assert ask("resume", run.directory.root, "--manifest", moved).code == 0
    assert "Not compared" not in ask("verify", run.directory.root).out


@pytest.mark.parametrize("prompt", [["a cat", "a pig"], ["a dog", "a cat"], ["a cat"]])
def test_another_content_is_refused(prompt: list[str], tmp_path: Path) -> None:
    run = planned(tmp_path, ["a cat", "a dog"])
    other = write_prompts(tmp_path / "other.parquet", prompt)
    Path(run.plan.sources[0].path).unlink()
    with pytest.raises(PlanChanged, match=r"other\.parquet: not the content that this run was"):
        open_run(run.directory.root, manifest=[other])
    assert not run.directory.moved.exists()


def test_no_manifest_there_is_told(tmp_path: Path) -> None:
    run = planned(tmp_path)
    with pytest.raises(ManifestError, match="no such file"):
        open_run(run.directory.root, manifest=[tmp_path / "nowhere.parquet"])


def test_files_of_several_keep_their_order_whatever_they_are_called_now(tmp_path: Path) -> None:
    """By name, the second file would now be the first."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for name, prompt in {"a": "a cat", "b": "a dog"}.items():
        pq.write_table(pa.table({"prompt": [prompt]}), folder / f"{name}.parquet")
    run, _ = create(tmp_path / "run", [folder], JOB, None)
    (folder / "a.parquet").rename(folder / "z.parquet")
    moved = folder.rename(tmp_path / "moved")
    opened = open_run(run.directory.root, manifest=[moved])
    assert [Path(source.path).name for source in opened.plan.sources] == ["z.parquet", "b.parquet"]
    assert prompts(opened) == ["a cat", "a dog"]
    (moved / "z.parquet").unlink()
    with pytest.raises(PlanChanged, match="which is 2 files"):
        open_run(run.directory.root, manifest=[moved])


def test_the_same_submit_with_the_moved_manifest_continues_the_run(tmp_path: Path) -> None:
    run = planned(tmp_path, ["a cat"])
    moved = tmp_path / "moved.parquet"
    Path(run.plan.sources[0].path).rename(moved)
    again, new = create(run.directory.root, [moved], run.job, None)
    assert not new
    assert prompts(again) == ["a cat"]


def test_a_run_with_a_converted_manifest_can_be_moved_and_needs_the_original_no_more(
    tmp_path: Path,
) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text("prompt\na cat\n")
    run, _ = create(tmp_path / "run", [file], JOB, None)
    file.unlink()
    root = Path(shutil.move(run.directory.root, tmp_path / "elsewhere"))
    opened = open_run(root)
    assert prompts(opened) == ["a cat"]
    assert Path(opened.plan.sources[0].path) == opened.directory.manifest
    file.write_text("prompt\na pig\n")
    with pytest.raises(PlanChanged):
        open_run(root, manifest=[file])


def test_the_plan_stays_as_it_was(tmp_path: Path) -> None:
    run = planned(tmp_path)
    before = run.directory.plan.read_bytes()
    moved = Path(run.plan.sources[0].path).rename(tmp_path / "moved.parquet")
    open_run(run.directory.root, manifest=[moved])
    assert run.directory.plan.read_bytes() == before
    run.directory.moved.unlink()
    assert load_plan(run.directory) == run.plan
