"""What is pushed is there, whole and verified, and nothing else is touched."""

import shutil
import threading
from pathlib import Path

import pytest

import batchgen
from batchgen.dataset.push import push, store
from batchgen.errors import DamagedRun, OutputError, Unreachable
from batchgen.run import RunDirectory
from tests.dataset.push.conftest import keep_shards
from tests.support.rehearsal import ask

SHARDS = {"data/000000.tar", "metadata/000000.parquet", "metadata/000001.parquet"}


def dataset(folder: Path) -> dict[str, bytes]:
    """What readers get of a run or of its copy."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        name: path.read_bytes()
        for path in files
        if not (name := path.relative_to(folder).as_posix()).startswith(".batchgen/")
    }


def test_a_complete_run_is_copied_and_a_second_push_sends_nothing(
    run: Path, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    first = ask("push", run, there)
    assert (first.code, dataset(there)) == (0, dataset(run)), first.err
    assert "complete: the dataset is in" in first.out
    assert "5 of them sent now" in first.out
    written = {path: path.stat().st_mtime_ns for path in there.rglob("*")}
    again = ask("push", run, f"file://{there}")
    assert "0 of them sent now (0 bytes" in again.out
    assert written == {path: path.stat().st_mtime_ns for path in there.rglob("*")}


def test_an_incomplete_run_is_sent_without_card_and_index(run: Path, tmp_path: Path) -> None:
    run.joinpath("index.json").rename(tmp_path / "index.json")
    told = ask("push", run, tmp_path / "there")
    assert (told.code, "--follow" in told.out) == (3, True)
    assert {name.partition("/")[0] for name in dataset(tmp_path / "there")} == {"data", "metadata"}


def test_what_appears_while_it_is_followed_is_sent_too(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = ["metadata/000003.parquet", "data/000003.tar", "index.json"]
    for name in later:
        run.joinpath(name).rename(tmp_path / Path(name).name)
    monkeypatch.setattr(push, "POLL_S", 0.02)
    looked = threading.Event()
    monkeypatch.setattr(push.time, "sleep", lambda _: looked.set() or looked.wait(0.02))
    handle = batchgen.attach(run)
    seen = []
    follower = threading.Thread(
        target=lambda: seen.append(handle.push(tmp_path / "there", follow=True))
    )
    follower.start()
    assert looked.wait(20)
    assert not (tmp_path / "there" / "data" / "000003.tar").exists()
    for name in reversed(later[:2]):
        (tmp_path / Path(name).name).rename(run / name)
    (tmp_path / "index.json").rename(run / "index.json")
    follower.join(20)
    assert (seen[0].complete, seen[0].shards, seen[0].sent) == (True, 5, 5)
    assert dataset(tmp_path / "there") == dataset(run)


def test_a_destination_that_falls_silent_is_asked_again_while_it_is_followed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.joinpath("index.json").rename(tmp_path / "index.json")
    put, slept, told = store.Store.put, [], []

    def silent(*_: object) -> None:
        monkeypatch.setattr(store.Store, "put", put)
        raise Unreachable("nobody answers")

    def sleep(seconds: float) -> None:
        if not slept:
            tmp_path.joinpath("index.json").rename(run / "index.json")
            monkeypatch.setattr(store.Store, "put", silent)
        slept.append(seconds)

    monkeypatch.setattr(push.time, "sleep", sleep)
    there, directory = tmp_path / "there", RunDirectory.open(run)
    push.push_run(directory, str(there), follow=True, replace=False, tell=told.append)
    assert slept == [push.POLL_S, push.RETRY_S]
    assert "nobody answers. Trying again in 60 s" in told[-1]
    assert dataset(there) == dataset(run)


def test_a_later_generation_is_added_and_renews_the_card(run: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    whole = shutil.copytree(run, tmp_path / "whole")
    keep_shards(run, 4)
    assert ask("push", run, there).code == 0
    told = ask("push", whole, there)
    assert "1 shard to send" in told.out
    assert dataset(there) == dataset(whole)


def test_a_generation_that_is_completed_while_shards_are_sent_is_sent_too(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = shutil.copytree(run, tmp_path / "whole")
    keep_shards(run, 4)
    put = store.Store.put

    def completed_meanwhile(*given: object) -> None:
        put(*given)
        shutil.copytree(whole, run, dirs_exist_ok=True)

    monkeypatch.setattr(store.Store, "put", completed_meanwhile)
    assert batchgen.attach(run).push(tmp_path / "there").shards == 5
    assert dataset(tmp_path / "there") == dataset(whole)


@pytest.mark.parametrize("name", ["data/000002.tar", "metadata/000001.parquet"])
def test_a_flipped_byte_there_is_found_and_replaced_only_if_asked(
    run: Path, tmp_path: Path, name: str
) -> None:
    there = tmp_path / "there"
    assert ask("push", run, there).code == 0
    content = bytearray((there / name).read_bytes())
    content[len(content) // 2] ^= 1
    (there / name).write_bytes(content)
    refused = ask("push", run, there)
    assert refused.code == 2
    assert f"{name}: of the same size, and another content" in refused.err
    assert "--replace" in refused.err
    assert (there / name).read_bytes() == content
    assert ask("push", run, there, "--replace").code == 0
    assert dataset(there) == dataset(run)


def test_while_a_shard_is_replaced_there_is_no_index(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    assert ask("push", run, there).code == 0
    (there / "data/000000.tar").write_bytes(b"other")
    monkeypatch.setattr(store.Store, "put", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        batchgen.attach(run).push(there, replace=True)
    assert not (there / "index.json").exists()


@pytest.mark.parametrize("name", ["data/000000.tar", "metadata/000001.parquet"])
def test_a_damaged_file_of_the_run_is_not_sent(run: Path, tmp_path: Path, name: str) -> None:
    content = (run / name).read_bytes()
    (run / name).write_bytes(content[:-1] + b"?")
    with pytest.raises(DamagedRun, match=rf"{name}: is not the file that was committed.*--repair"):
        batchgen.attach(run).push(tmp_path / "there")
    assert name not in dataset(tmp_path / "there")
    assert "index.json" not in dataset(tmp_path / "there")


def test_a_published_file_that_is_gone_is_told(run: Path, tmp_path: Path) -> None:
    (run / "data/000000.tar").unlink()
    with pytest.raises(DamagedRun, match=r"000000\.tar was committed and is missing"):
        batchgen.attach(run).push(tmp_path / "there")


def test_files_of_another_run_are_refused_and_stay(run: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    for name in ("data/000000.tar", "data/000007.tar"):
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_bytes(b"another run's")
    with pytest.raises(OutputError, match=r"not of this run.*000007\.tar"):
        batchgen.attach(run).push(there)
    (there / "data/000007.tar").unlink()
    with pytest.raises(OutputError, match=r"000000\.tar: 13 bytes there, "):
        batchgen.attach(run).push(there)
    assert dataset(there) == {"data/000000.tar": b"another run's"}


def test_an_index_that_lists_what_is_not_published_is_not_sent(run: Path, tmp_path: Path) -> None:
    index = run / "index.json"
    index.write_text(index.read_text().replace("000004.tar", "000009.tar"))
    with pytest.raises(DamagedRun, match=r"lists data/000009\.tar"):
        batchgen.attach(run).push(tmp_path / "there")
    assert "index.json" not in dataset(tmp_path / "there")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("gs://bucket/folder", "pip install 'batchgen[gcs]'"),
        ("https://host/folder", "nothing can be written there"),
        ("s4://bucket", "no file system is known by s4://"),
        ("hf://some/model", "expected hf://datasets/ORG/NAME"),
        ("ftp://me:sesame@127.0.0.1:1/x", "ftp://me:***@127.0.0.1:1/x"),
    ],
)
def test_a_destination_that_cannot_be_reached_is_told_without_secrets(
    run: Path, url: str, told: str
) -> None:
    answer = ask("push", run, url)
    assert answer.code in (1, 2)
    assert told in answer.err
    assert "sesame" not in answer.err


def test_a_run_is_no_destination(run: Path) -> None:
    assert "is a run itself" in ask("push", run, run).err


@pytest.mark.parametrize("url", ["{run}/copy", "file://{run}/data", "{run}/../{name}/copy"])
def test_a_folder_of_the_run_is_no_destination(run: Path, url: str) -> None:
    before = dataset(run)
    answer = ask("push", run, url.format(run=run, name=run.name))
    assert (answer.code, "in the folder of the run" in answer.err) == (2, True)
    assert dataset(run) == before


def test_a_card_that_no_push_has_written_is_replaced_only_if_asked(
    run: Path, tmp_path: Path
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "README.md").write_text("somebody's project")
    with pytest.raises(OutputError, match=r"README\.md and no pictures.*--replace"):
        batchgen.attach(run).push(there)
    assert dataset(there) == {"README.md": b"somebody's project"}
    batchgen.attach(run).push(there, replace=True)
    assert dataset(there) == dataset(run)
    (run / "README.md").write_text("a newer card")
    assert batchgen.attach(run).push(there).complete, "that of an earlier push is renewed"


def test_a_dataset_without_its_commits_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / ".batchgen")
    assert "a dataset without its folder .batchgen" in ask("push", run, tmp_path / "there").err


@pytest.mark.slow
def test_a_push_that_is_killed_at_any_step_is_continued(run: Path, tmp_path: Path, die) -> None:
    keep_shards(run, 2)
    whole, step = dataset(run), 0
    while code := die(run, str(there := tmp_path / f"there-{step}"), step):
        assert code == -9
        seen = dataset(there)
        visible = {name for name in seen if not name.rpartition("/")[2].startswith(".")}
        assert all(seen[name] == whole[name] for name in visible), "half a file is visible"
        assert visible >= {"data/000000.tar"} or "metadata/000000.parquet" not in visible
        assert visible >= SHARDS or not visible & {"README.md", "report.html", "index.json"}
        assert visible == set(whole) or "index.json" not in visible
        batchgen.attach(run).push(there)
        assert dataset(there) == whole, "something is left over, or lost"
        step += 1
    assert step == 8 * len(whole)
