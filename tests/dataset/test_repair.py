"""`verify --repair` opens exactly the damaged shards again, and what it replaces is never lost."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from batchgen import durable
from batchgen.dataset.finalize import finalize_run
from batchgen.dataset.verify import verify_run
from batchgen.errors import DamagedRun
from batchgen.run.directory import RunDirectory
from batchgen.run.owner import Owner
from batchgen.run.run import Run, create, inspect_run, open_run
from batchgen.settings.job import load_job
from batchgen.shard import commit
from batchgen.shard.claims import last_attempt
from batchgen.shard.commit import committed_shards
from tests.support.rehearsal import Answer, ask, records, write_prompts
from tests.support.specimens import abandoned, planned, worked

PROMPTS = [*["a cat"] * 4, *["RAISE"] * 4, *["a dog"] * 2, "NAN", "a fox"]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A complete run of three shards: four good, none good, three of four. Its worker is gone."""
    return abandoned(worked(planned(tmp_path, PROMPTS)))


def published(run: Run) -> dict[str, bytes]:
    root = run.directory.root
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted([*root.glob("data/*"), *root.glob("metadata/*"), *root.glob("*.*")])
        if path.is_file()
    }


def tars(run: Run) -> dict[str, bytes]:
    return {name: data for name, data in published(run).items() if name.startswith("data/")}


def repair(run: Run, *words: str) -> Answer:
    return ask("verify", run.directory.root, "--repair", *words)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit(path: Path) -> None:
    path.write_text(path.read_text().replace('"ok": 3', '"ok": 4'))


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "tar gone": ("data/000002.tar", Path.unlink, ""),
    "tar flipped": ("data/000002.tar", flip, "--deep"),
    "tar is a pipe": ("data/000002.tar", become_a_pipe, ""),
    "metadata is a folder": ("metadata/000002.parquet", become_a_folder, ""),
    "metadata gone": ("metadata/000002.parquet", Path.unlink, ""),
    "metadata flipped": ("metadata/000002.parquet", flip, ""),
    "commit gone": (".batchgen/done/000/000002.json", Path.unlink, ""),
    "commit edited": (".batchgen/done/000/000002.json", edit, ""),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_shard_is_put_aside_and_made_again_byte_for_byte(name: str, run: Run) -> None:
    file, damage, how = DAMAGES[name]
    good = tars(run)
    damage(run.directory.root / file)
    found = published(run)
    answer = repair(run, *how.split())
    assert answer.code == 0, answer
    assert "1 shard was opened again" in answer.out
    assert f"batchgen resume {run.directory.root}" in answer.out
    assert committed_shards(run.directory) == {0, 1}
    aside = run.directory.replaced / "0001"
    assert str(aside) in answer.out
    files = [path for path in aside.rglob("*.*") if path.is_file()]
    kept = {str(path.relative_to(aside)): path.read_bytes() for path in files}
    assert {**published(run), **{k: v for k, v in kept.items() if k in found}} == found
    assert not run.directory.complete()
    worked(run)
    assert run.directory.complete()
    assert tars(run) == good
    assert ask("verify", "--deep", run.directory.root).code == 0
    assert last_attempt(run.directory, 2) == 2, "claims stay"


def test_a_sound_run_is_left_alone(run: Run) -> None:
    before = published(run)
    answer = repair(run, "--deep")
    assert (answer.code, published(run)) == (0, before)
    assert not run.directory.replaced.exists()


def test_a_complete_run_is_sound_in_a_folder_of_another_name(run: Run, tmp_path: Path) -> None:
    """A picture of it is not another one because its folder was renamed or copied."""
    copy = shutil.copytree(run.directory.root, tmp_path / "renamed")
    assert ask("verify", copy, "--deep").code == 0


def test_an_edited_index_is_put_aside_and_written_again(run: Run) -> None:
    before = published(run)
    run.directory.index.write_text(run.directory.index.read_text().replace("000000.tar", "x.tar"))
    assert ask("verify", run.directory.root).code == 1
    assert repair(run).code == 0
    assert finalize_run(run)
    assert published(run) == before


@pytest.mark.parametrize("name", ["data/000000.tar", "metadata/000001.parquet"])
def test_a_published_file_that_is_gone_makes_a_run_incomplete(name: str, run: Run) -> None:
    """Counted without opening a tar: its pictures are pending again (P8)."""
    (run.directory.root / name).unlink()
    told = json.loads(ask("status", run.directory.root, "--json").out)
    assert (told["state"], told["pending"]) == ("stalled", 4)
    assert told["ok"] + told["failed"] + told["pending"] == told["rows"] == 12
    assert told["cause"] == f"published and gone: {run.directory.root / name}"
    assert told["next"] == f"batchgen verify {run.directory.root} --repair"
    answer = ask("resume", run.directory.root)
    assert answer.code == 1
    assert f"{name} was committed and is missing" in answer.err
    assert f"batchgen verify {run.directory.root} --repair" in answer.err
    assert repair(run).code == 0
    worked(run)
    assert ask("status", run.directory.root).code == 0


@pytest.mark.parametrize(
    "name", ["data/other.tar", "data/000001.tar", "data/000007.tar", "metadata/other.parquet"]
)
def test_foreign_files_beside_the_published_ones_are_named(name: str, run: Run) -> None:
    """Readers would take them for the run's. 000001.tar is the name of a shard without a tar."""
    stranger = run.directory.root / name
    stranger.write_bytes(b"mine")
    for words in (["resume", run.directory.root], submit(run)):
        answer = ask(*words)
        assert answer.code == 1
        assert f"{stranger}: not published by this run" in answer.err
        assert f"mv {stranger} ANOTHER_FOLDER" in answer.err
    with pytest.raises(DamagedRun, match="not published by this run"):
        finalize_run(run)
    answer = repair(run)
    assert answer.code == 1
    assert f"{stranger}: was not published by this run" in answer.out
    assert stranger.read_bytes() == b"mine"


def submit(run: Run) -> list[object]:
    values = ["sampling.width=16", "sampling.height=16", "engine.batch_size=2"]
    words = [word for value in [*values, "shards.pictures=4"] for word in ("--set", value)]
    return ["submit", run.plan.manifest[0], "--rehearse", "--out", run.directory.root, *words]


@pytest.mark.parametrize(
    "name", ["data/.hidden.tar", "data/notes.txt", "notes.txt", "data/x/y.tar"]
)
def test_files_that_no_reader_takes_for_the_runs_are_left_in_peace(name: str, run: Run) -> None:
    path = run.directory.root / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"mine")
    assert ask("resume", run.directory.root).code == 0
    assert ask("verify", run.directory.root).code == 0


def test_a_foreign_tar_under_a_shards_own_name_is_told_before_anything_is_painted(
    tmp_path: Path,
) -> None:
    run = planned(tmp_path, PROMPTS)
    run.directory.data(2).write_bytes(b"mine")
    answer = ask("resume", run.directory.root)
    assert answer.code == 1
    assert "000002.tar: not published by this run" in answer.err
    assert ask("verify", run.directory.root).code == 1
    assert repair(run).code == 0
    assert (run.directory.replaced / "0001/data/000002.tar").read_bytes() == b"mine"
    worked(run)
    assert run.directory.complete()


def test_a_commit_beyond_the_plan_completes_nothing(tmp_path: Path) -> None:
    """Three commits of three shards, but not of the planned ones."""
    run = planned(tmp_path, PROMPTS)
    worked(run)
    for path in (run.directory.done(2), run.directory.data(2), run.directory.metadata(2)):
        path.unlink()
    content = json.loads(run.directory.done(0).read_bytes())
    del content["checksum"]
    run.directory.done(7).write_text(json.dumps(content | {"shard": 7}))
    assert json.loads(ask("status", run.directory.root, "--json").out)["state"] == "stalled"
    with pytest.raises(DamagedRun, match=r"000007\.json: not published by this run"):
        finalize_run(run)
    assert "000007.json" in ask("verify", run.directory.root).out


def test_a_shard_whose_worker_lives_is_not_repaired(run: Run) -> None:
    claim = run.directory.claim(2, 1)
    content = json.loads(claim.read_bytes())
    content["owner"] = asdict(Owner.me())
    claim.write_text(json.dumps(content))
    run.directory.data(2).unlink()
    run.directory.data(0).unlink()
    before = published(run)
    answer = repair(run)
    assert answer.code == 2
    assert f"a worker that had shard 000002 lives (process {os.getpid()} on " in answer.err
    assert f"batchgen cancel {run.directory.root}" in answer.err
    assert published(run) == before


def broken_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose worker died between its last commit and the published names."""
    run = planned(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(commit, "roll_forward", lambda _directory, _shard: None)
        patch.setattr("batchgen.worker.worker.roll_forward", lambda _directory, _shard: None)
        patch.setattr("batchgen.worker.worker.finalize_run", lambda _run: None)
        worked(run)
    assert not run.directory.metadata(0).exists()
    return run


def test_only_metadata_that_differs_ends_in_one_true_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the committed file, which is still there, is published without making it again."""
    run = broken_off(tmp_path, monkeypatch)
    committed = run.directory.partial(0, 1, "parquet").read_bytes()
    other = tmp_path / "other"
    other.mkdir()
    foreign = worked(planned(other)).directory.metadata(0).read_bytes()
    assert foreign != committed
    run.directory.metadata(0).write_bytes(foreign)
    for _ in range(2):
        with pytest.raises(DamagedRun, match=r"000000\.parquet is not the file that was committed"):
            finalize_run(run)
        told = ask("verify", run.directory.root)
        assert told.code == 1
        assert "000000.parquet: its hash is not the committed one" in told.out
    monkeypatch.setattr("batchgen.dataset.repair._refuse_living", lambda *_: None)
    assert repair(run).code == 0
    assert finalize_run(run)
    assert run.directory.metadata(0).read_bytes() == committed
    assert (run.directory.replaced / "0001/metadata/000000.parquet").read_bytes() == foreign
    assert ask("verify", "--deep", run.directory.root).code == 0


@pytest.mark.parametrize("kind", ["data", "metadata"])
def test_a_run_that_was_copied_while_it_was_published_is_completed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy without hard links has two files of one content."""
    run = broken_off(tmp_path, monkeypatch)
    for name in ("tar", "parquet"):
        target = run.directory.data(0) if name == "tar" else run.directory.metadata(0)
        shutil.copy(run.directory.partial(0, 1, name), target)
        if kind == "data":
            break
    assert finalize_run(run)
    assert ask("verify", "--deep", run.directory.root).code == 0


def test_a_commit_that_is_not_published_yet_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = broken_off(tmp_path, monkeypatch)
    answer = repair(run)
    assert answer.code == 0
    assert "0 shards are sound, 0 are not, 1 is not done yet" in answer.out
    assert committed_shards(run.directory) == {0}


def test_an_edited_card_is_kept_when_another_takes_its_place(run: Run) -> None:
    card = run.directory.root / "README.md"
    card.write_text("my own words")
    run.directory.data(2).unlink()
    assert repair(run).code == 0
    worked(run)
    assert "my own words" not in card.read_text()
    kept = [path.read_text() for path in run.directory.replaced.rglob("README.md")]
    assert kept == ["my own words"]


def test_damaged_records_or_pictures_end_the_completion_with_a_remedy(run: Run) -> None:
    """Met while the statistics are gathered and the contact sheet is drawn."""
    durable.remove(run.directory.index)
    whole = run.directory.metadata(0).read_bytes()
    run.directory.metadata(0).write_bytes(whole[:-9])
    with pytest.raises(DamagedRun, match=r"000000\.parquet: cannot be read.*--repair"):
        finalize_run(run)
    run.directory.metadata(0).write_bytes(whole)
    run.directory.data(0).write_bytes(run.directory.data(0).read_bytes()[:700])
    with pytest.raises(DamagedRun, match=r"a tar cannot be read.*--deep --repair"):
        finalize_run(run)


def test_logs_name_damaged_records(run: Run) -> None:
    run.directory.metadata(0).write_bytes(b"no records")
    answer = ask("logs", "--failed", run.directory.root)
    assert answer.code == 1
    assert "000000.parquet: cannot be read" in answer.err


def without_checksum(run: Run, **given: object) -> None:
    content = json.loads(run.directory.plan.read_bytes())
    del content["checksum"]
    run.directory.plan.write_text(json.dumps(content | given))


def test_verify_cuts_the_manifest_again(tmp_path: Path) -> None:
    """An old plan in which a row was exchanged before it was painted, so that all numbers fit."""
    run = planned(tmp_path, ["a cat", "a dog", "a fox"], images=[2, 1, 4])
    shards = [(0, 4, 0, 0), (4, 3, 1, 1)]
    assert [tuple(shard) for shard in run.plan.shards] == [(0, 4, 0, 0), (4, 3, 2, 1)]
    without_checksum(run, shards=shards)
    answer = ask("verify", run.directory.root)
    assert answer.code == 1
    assert (
        "shard 1 is planned as 3 pictures from picture 4 on (row 1, picture 1 of it)" in answer.out
    )
    assert "the manifest has 3 pictures from picture 4 on (row 2, picture 1 of it)" in answer.out


def test_verify_compares_rows_with_the_plan_and_deep_with_the_manifest(tmp_path: Path) -> None:
    file = write_prompts(tmp_path / "prompts.parquet", ["a cat", "a dog", "a fox"])
    run, _ = create(tmp_path / "run", [file], load_job(None, ["engine.kind=pattern"]), None)
    worked(run)
    assert ask("verify", "--deep", run.directory.root).code == 0
    good = records(run.directory.root)
    assert [row["row"] for row in good] == [0, 1, 2]
    # The same rows painted from other prompts: only the manifest knows.
    other = tmp_path / "other"
    other.mkdir()
    write_prompts(other / "prompts.parquet", ["a cat", "a pig", "a fox"])
    root = other / "run"
    create(root, [other / "prompts.parquet"], load_job(None, ["engine.kind=pattern"]), None)
    worked(open_run(root))
    for name in ("plan.json", "job.toml"):
        shutil.copy(run.directory.inner / name, root / ".batchgen" / name)
    assert ask("verify", root).code == 0
    answer = ask("verify", "--deep", root)
    assert answer.code == 1
    assert (
        "picture 000000001 has prompt 'a pig'; its row of the manifest says 'a dog'" in answer.out
    )


def test_a_run_without_its_manifest_is_compared_with_its_plan_and_says_so(run: Run) -> None:
    Path(run.plan.manifest[0]).unlink()
    answer = ask("verify", "--deep", run.directory.root)
    assert answer.code == 0
    assert "Not compared with the manifest, but with the plan alone: " in answer.out
    assert run.plan.manifest[0] in answer.out


def test_a_digit_of_the_plan_is_told_by_every_verb(run: Run) -> None:
    text = run.directory.plan.read_text()
    run.directory.plan.write_text(text.replace('"pictures": 12', '"pictures": 13'))
    assert run.directory.plan.read_text() != text
    for verb in ("status", "resume", "verify", "logs --failed"):
        answer = ask(*verb.split(), run.directory.root)
        assert answer.code == 1
        assert f"{run.directory.plan}: not the plan that was made" in answer.err
    assert ask(*submit(run)).code == 1


def test_a_digit_of_the_summary_is_counted_again(run: Run) -> None:
    text = run.directory.summary.read_text()
    run.directory.summary.write_text(text.replace('"ok": 7', '"ok": 9'))
    assert run.directory.summary.read_text() != text
    assert json.loads(ask("status", run.directory.root, "--json").out)["ok"] == 7


def test_findings_name_the_shard_that_is_wrong_and_no_other(run: Run) -> None:
    run.directory.data(0).unlink()
    findings = verify_run(inspect_run(run.directory.root), deep=False, manifest=True)
    assert {one.shard: len(one.problems) for one in findings} == {None: 0, 0: 1, 1: 0, 2: 0}


def test_the_names_of_a_shards_files_are_those_of_its_directory(run: Run) -> None:
    directory = RunDirectory(run.directory.root)
    done = commit.read_done(directory, 0)
    assert [target for _, target in done.names(directory)] == [
        directory.data(0),
        directory.metadata(0),
    ]
