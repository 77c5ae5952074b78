"""One attempt wins a shard. Anyone completes its commit, any number of times, and loses nothing."""

import errno
import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from batchgen import durable
from batchgen.errors import DamagedRun
from batchgen.run.directory import BUCKET, RunDirectory
from batchgen.shard.commit import (
    commit_shard,
    committed_shards,
    published_shards,
    read_done,
    roll_forward,
    visible_shards,
)
from tests.support.specimens import done, new_directory, ready


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return new_directory(tmp_path)


def published(directory: RunDirectory, shard: int = 0) -> tuple[bytes, bytes]:
    return directory.data(shard).read_bytes(), directory.metadata(shard).read_bytes()


def files_of(attempt: int) -> tuple[bytes, bytes]:
    return b"tar of attempt %d" % attempt, b"parquet of attempt %d" % attempt


def left_over(directory: RunDirectory) -> list[str]:
    return [path.name for path in (directory.inner / "partial").rglob("*.*")]


def test_of_many_who_commit_at_once_one_wins_and_its_files_are_published(
    directory: RunDirectory,
) -> None:
    commits = [ready(directory, 0, attempt) for attempt in range(1, 9)]
    barrier = threading.Barrier(len(commits))

    def commit(attempt: int) -> bool:
        barrier.wait()
        return commit_shard(RunDirectory(directory.root), commits[attempt - 1])

    attempts = range(1, 9)
    with ThreadPoolExecutor(len(commits)) as threads:
        won = list(itertools.compress(attempts, threads.map(commit, attempts)))
    assert won == [read_done(directory, 0).attempt]
    assert published(directory) == files_of(won[0])
    assert left_over(directory) == []


def test_the_second_to_commit_is_told_and_changes_nothing(directory: RunDirectory) -> None:
    first, second = ready(directory, 0, 1), ready(directory, 0, 2)
    assert commit_shard(directory, second)
    before = published(directory)
    assert not commit_shard(directory, first)
    assert published(directory) == before == files_of(2)


@pytest.mark.parametrize("names", [0, 1, 2])
@pytest.mark.parametrize("swept", [0, 1, 4])
def test_anyone_completes_a_commit_that_broke_off_anywhere(
    names: int, swept: int, directory: RunDirectory
) -> None:
    """It broke off after the commit's link, before the names were published or files removed."""
    ready(directory, 0, 1)
    ready(directory, 0, 2)
    durable.link(directory.partial(0, 2, "json"), directory.done(0))
    for kind, target in [("tar", directory.data(0)), ("parquet", directory.metadata(0))][:names]:
        durable.link(directory.partial(0, 2, kind), target)
    for path in sorted((directory.inner / "partial").rglob("*.*"))[: swept if names == 2 else 0]:
        path.unlink()
    for _ in range(3):
        roll_forward(RunDirectory(directory.root), 0)
        assert published(directory) == files_of(2)
        assert left_over(directory) == []


def test_a_shard_without_a_good_picture_is_published_without_a_tar(directory: RunDirectory) -> None:
    commit_shard(directory, ready(directory, 0, 1, ok=0, failed=4, tar=None))
    assert published_shards(directory) == {0}
    assert not directory.data(0).exists()
    assert left_over(directory) == []


def test_readers_see_the_tar_before_the_records(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, link, order = ready(directory, 0, 1), durable.link, []

    def noted(source: Path, target: Path) -> bool:
        order.append(target)
        return link(source, target)

    monkeypatch.setattr(durable, "link", noted)
    commit_shard(directory, commit)
    assert order == [directory.done(0), directory.data(0), directory.metadata(0)]


def test_a_lost_reply_to_the_winning_link_is_still_a_win(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS may link, lose the answer, and say of the retry that the name exists."""
    commit, link = ready(directory, 0, 1), os.link

    def forgetful(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError(errno.EEXIST, "exists")

    monkeypatch.setattr(os, "link", forgetful)
    assert commit_shard(directory, commit)
    assert published(directory) == files_of(1)


def test_a_commit_cannot_be_read_before_it_is_whole(directory: RunDirectory) -> None:
    commit = ready(directory, 0, 1, failures={"one colour": 2}, ok=2, failed=2)
    commit_shard(directory, commit)
    assert read_done(directory, 0) == commit


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 600, b"{}", b"[]", b'{"shard": 0}', done(0).encode()[:-9]]
)
def test_a_damaged_commit_is_told_with_the_remedy(content: bytes, directory: RunDirectory) -> None:
    directory.done(0).write_bytes(content)
    remedy = rf"batchgen verify {directory.root} --repair"
    with pytest.raises(DamagedRun, match=r"000000\.json: not a commit.*" + remedy):
        read_done(directory, 0)


def test_an_attempt_that_vanished_before_any_commit_is_told(directory: RunDirectory) -> None:
    with pytest.raises(DamagedRun, match="is gone, and shard 0 was not committed by another"):
        commit_shard(directory, done(0))


@pytest.mark.parametrize("name", ["data", "metadata"])
def test_a_published_name_that_is_another_file_is_told_and_nothing_is_removed(
    name: str, directory: RunDirectory
) -> None:
    commit = ready(directory, 0, 1)
    (directory.data(0) if name == "data" else directory.metadata(0)).write_bytes(b"someone else's")
    wrong = f"{name}/000000.*is not the file that was committed"
    with pytest.raises(DamagedRun, match=f"{wrong}.*batchgen verify {directory.root}"):
        commit_shard(directory, commit)
    assert len(left_over(directory)) == 4


def test_a_committed_file_that_is_missing_is_told(directory: RunDirectory) -> None:
    commit_shard(directory, ready(directory, 0, 1))
    directory.data(0).unlink()
    with pytest.raises(DamagedRun, match=r"000000\.tar was committed and is missing"):
        roll_forward(directory, 0)


def test_what_is_done_is_known_by_names_alone(directory: RunDirectory) -> None:
    for shard in (0, 2):
        commit_shard(directory, ready(directory, shard, 1))
    (directory.inner / "done" / "000" / ".000001.json.abc.tmp").touch()
    (directory.root / "data" / "000001.tar").touch()
    (directory.root / "metadata" / "notes.parquet").touch()
    directory.done(0).write_bytes(b"")
    assert committed_shards(directory) == published_shards(directory) == {0, 2}
    assert visible_shards(directory) == {0, 1, 2}


@pytest.mark.parametrize("shards", [1, BUCKET, BUCKET + 1, 2 * BUCKET + 500])
def test_no_folder_holds_more_than_a_thousand_shards(shards: int, tmp_path: Path) -> None:
    directory = new_directory(tmp_path, shards)
    for name in (
        directory.done,
        lambda shard: directory.claim(shard, 1),
        lambda shard: directory.partial(shard, 1, "tar"),
    ):
        folders = [name(shard).parent for shard in range(shards)]
        assert max(folders.count(folder) for folder in set(folders)) <= 1000
        assert [folder for folder in set(folders) if not folder.is_dir()] == []
