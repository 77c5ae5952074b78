"""Commit is one link: one attempt wins, anyone completes it, any number of times, and nobody's pictures get lost on the way."""

import errno
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from specimens import done, new_store, ready

from batchgen import durable
from batchgen.errors import DamagedRun, OutputError
from batchgen.store import BUCKET, Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path)


def published(store: Store, shard: int = 0) -> tuple[bytes, bytes]:
    return store.data(shard).read_bytes(), store.metadata(shard).read_bytes()


def left_over(store: Store) -> list[str]:
    return [path.name for path in (store.inner / "partial").rglob("*.*")]


def test_of_many_who_commit_at_once_one_wins_and_its_files_are_published(store: Store) -> None:
    commits = [ready(store, 0, attempt) for attempt in range(1, 9)]
    barrier = threading.Barrier(len(commits))

    def commit(attempt: int) -> bool:
        barrier.wait()
        return Store(store.root).commit(commits[attempt - 1])

    with ThreadPoolExecutor(len(commits)) as threads:
        won = [attempt for attempt, mine in zip(range(1, 9), threads.map(commit, range(1, 9)), strict=True) if mine]
    assert won == [store.read_done(0).attempt]
    assert published(store) == (b"tar of attempt %d" % won[0], b"parquet of attempt %d" % won[0])
    assert left_over(store) == []


def test_the_second_to_commit_is_told_and_changes_nothing(store: Store) -> None:
    first, second = ready(store, 0, 1), ready(store, 0, 2)
    assert store.commit(second)
    before = published(store)
    assert not store.commit(first)
    assert published(store) == before == (b"tar of attempt 2", b"parquet of attempt 2")


@pytest.mark.parametrize("names", [0, 1, 2])
@pytest.mark.parametrize("swept", [0, 1, 4])
def test_anyone_completes_a_commit_that_broke_off_anywhere(names: int, swept: int, store: Store) -> None:
    """After the commit's link: no, one or both published names; nothing is swept before both are there."""
    ready(store, 0, 1)
    ready(store, 0, 2)
    durable.link(store.partial(0, 2, "json"), store.done(0))
    for kind, target in [("tar", store.data(0)), ("parquet", store.metadata(0))][:names]:
        durable.link(store.partial(0, 2, kind), target)
    for path in sorted((store.inner / "partial").rglob("*.*"))[: swept if names == 2 else 0]:
        path.unlink()
    for _ in range(3):
        Store(store.root).roll_forward(0)
        assert published(store) == (b"tar of attempt 2", b"parquet of attempt 2")
        assert left_over(store) == []


def test_a_shard_without_a_good_picture_is_published_without_a_tar(store: Store) -> None:
    store.commit(ready(store, 0, 1, ok=0, failed=4, tar=None))
    assert (store.published(), store.data(0).exists(), left_over(store)) == ({0}, False, [])


def test_readers_see_the_tar_before_the_records(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    commit, order = ready(store, 0, 1), []
    link = durable.link
    monkeypatch.setattr(durable, "link", lambda source, target: order.append(target) or link(source, target))  # type: ignore[func-returns-value]
    store.commit(commit)
    assert order == [store.done(0), store.data(0), store.metadata(0)]


def test_a_lost_reply_to_the_winning_link_is_still_a_win(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS may link, lose the answer, and say of the retry that the name exists."""
    commit, link = ready(store, 0, 1), os.link

    def forgetful(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, "exists")

    monkeypatch.setattr(os, "link", forgetful)
    assert store.commit(commit)
    assert published(store) == (b"tar of attempt 1", b"parquet of attempt 1")


def test_a_commit_cannot_be_read_before_it_is_whole(store: Store) -> None:
    commit = ready(store, 0, 1, failures={"one colour": 2}, ok=2, failed=2)
    store.commit(commit)
    assert store.read_done(0) == commit


@pytest.mark.parametrize("content", [b"", b"\0" * 600, b"{}", b"[]", b'{"shard": 0}', done(0).encode()[:-9]])
def test_a_damaged_commit_is_told_with_the_remedy(content: bytes, store: Store) -> None:
    store.done(0).write_bytes(content)
    with pytest.raises(DamagedRun, match=r"000000\.json: not a commit.*Move it, .*000000\.tar and .*000000\.parquet away and resume"):
        store.read_done(0)


def test_an_attempt_that_vanished_before_any_commit_is_told(store: Store) -> None:
    with pytest.raises(DamagedRun, match="is gone, and shard 0 was not committed by another"):
        store.commit(done(0))


@pytest.mark.parametrize("name", ["data", "metadata"])
def test_a_published_name_that_is_another_file_is_told_and_nothing_is_removed(name: str, store: Store) -> None:
    commit = ready(store, 0, 1)
    (store.data(0) if name == "data" else store.metadata(0)).write_bytes(b"someone else's")
    with pytest.raises(DamagedRun, match=f"{name}/000000.*is not the file that was committed.*batchgen verify {store.root}"):
        store.commit(commit)
    assert len(left_over(store)) == 4


def test_a_committed_file_that_is_missing_is_told(store: Store) -> None:
    store.commit(ready(store, 0, 1))
    store.data(0).unlink()
    with pytest.raises(DamagedRun, match=r"000000\.tar was committed and is missing"):
        store.roll_forward(0)


def test_what_is_done_is_known_by_names_alone(store: Store) -> None:
    for shard in (0, 2):
        store.commit(ready(store, shard, 1))
    (store.inner / "done" / "000" / ".000001.json.abc.tmp").touch()
    (store.root / "data" / "000001.tar").touch()
    (store.root / "metadata" / "notes.parquet").touch()
    store.done(0).write_bytes(b"")
    assert (store.committed(), store.published(), store.visible()) == ({0, 2}, {0, 2}, {0, 1, 2})


@pytest.mark.parametrize("shards", [1, BUCKET, BUCKET + 1, 2 * BUCKET + 500])
def test_no_folder_holds_more_than_a_thousand_shards(shards: int, tmp_path: Path) -> None:
    store = new_store(tmp_path, shards)
    for name in (store.done, lambda shard: store.claim(shard, 1), lambda shard: store.partial(shard, 1, "tar")):
        folders = [name(shard).parent for shard in range(shards)]
        assert max(folders.count(folder) for folder in set(folders)) <= 1000
        assert [folder for folder in set(folders) if not folder.is_dir()] == []


def test_the_first_cause_to_stop_stays(store: Store) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: store.ask_to_stop("user", f"caller {n}"), range(8)))
    first = store.stopped()
    store.ask_to_stop("failure budget", "too many")
    assert first is not None
    assert store.stopped() == first
    assert (first.cause, first.text[:7]) == ("user", "caller ")


def test_a_cleared_stop_can_be_set_again(store: Store) -> None:
    assert store.stopped() is None
    store.ask_to_stop("user", "one")
    store.clear_stop()
    assert store.stopped() is None
    store.ask_to_stop("time limit", "two")
    assert store.stopped() is not None
    assert json.loads(store.stop.read_bytes())["cause"] == "time limit"


def test_a_full_disk_can_still_say_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flag is written into the bytes of a file kept for this."""

    def full(_path: Path, _data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable, "write", full)
    for text in ("first", "second"):
        store.ask_to_stop("disk full", text)
    stop = store.stopped()
    assert stop is not None
    assert (stop.cause, stop.text) == ("disk full", "first")


def test_another_error_of_the_disk_is_not_taken_for_a_full_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_path: Path, _data: bytes) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(durable, "write", broken)
    with pytest.raises(OSError, match="Input/output"):
        store.ask_to_stop("user", "")


def test_a_folder_without_a_plan_is_no_run(store: Store) -> None:
    with pytest.raises(OutputError, match=r"not a run directory.*batchgen submit MANIFEST --out"):
        Store.open(store.root)
