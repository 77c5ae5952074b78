"""What is done is counted from files, each opened once. The summary saves time, decides nothing."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from batchgen.run.directory import RunDirectory
from batchgen.shard.in_progress import unpublished_counts
from batchgen.shard.loss import Loss
from batchgen.shard.partial_shard import PartialShard
from batchgen.shard.tally import SAVE_AFTER, Tally, count_pictures
from tests.support.specimens import done, new_directory, opens, write_group


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return new_directory(tmp_path, 1500)


def commit(directory: RunDirectory, shards: Iterable[int], **given: object) -> None:
    for shard in shards:
        directory.done(shard).write_bytes(done(shard, **given).encode())


def test_counts_are_sums_over_the_commits(directory: RunDirectory) -> None:
    one = {"one colour": 1}
    both = {"one colour": 1, "exception": 3}
    commit(directory, range(2), ok=3, failed=1, failures=one, tar_bytes=50, group_s=1.5)
    commit(directory, {7}, ok=0, failed=4, failures=both, tar=None, tar_bytes=0, group_s=4.0)
    counts = count_pictures(directory)
    assert (counts.shards, counts.ok, counts.failed) == ({0, 1, 7}, 6, 6)
    assert (counts.bytes, counts.device_s) == (100, 7.0)
    assert counts.failures == {"one colour": 3, "exception": 3}


def test_a_second_look_opens_only_what_is_new(directory: RunDirectory) -> None:
    commit(directory, range(1200))
    first = count_pictures(directory)
    commit(directory, range(1300, 1305))
    with opens(directory.root) as opened:
        second = count_pictures(directory)
    assert (first.ok, second.ok) == (4 * 1200, 4 * 1205)
    assert len(opened) == 1 + 5, "the summary and the new commits"


def test_a_few_new_commits_are_not_worth_a_summary_and_many_are(directory: RunDirectory) -> None:
    commit(directory, range(SAVE_AFTER - 1))
    count_pictures(directory)
    assert not directory.summary.exists()
    commit(directory, range(SAVE_AFTER))
    count_pictures(directory)
    assert Tally.load(directory) == count_pictures(directory)


@pytest.mark.parametrize("shards", [set(), {0}, {0, 2}, {3, 4, 5}, {0, 2, 3, 7, 9, 10, 1499}])
def test_a_summary_remembers_exactly_the_shards_it_counted(
    shards: set[int], directory: RunDirectory
) -> None:
    Tally(shards=shards, ok=3).save(directory)
    assert Tally.load(directory) == Tally(shards=shards, ok=3)


DAMAGE = {
    "gone": None,
    "empty": b"",
    "zeros": bytes(200),
    "torn": b'{"shards": [[0, 9',
    "a list": b"[]",
    "null": b"null",
    "of another version": b'{"shards": [[0, 9]], "failures": {}, "votes": 3}',
    "without counts": b'{"ok": 3}',
    "of other types": b'{"shards": 5, "failures": {}}',
    "not text": b"\xff\xfe",
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_summary_that_is_no_use_is_recomputed(name: str, directory: RunDirectory) -> None:
    commit(directory, range(120))
    expected = count_pictures(directory)
    directory.summary.unlink()
    if (content := DAMAGE[name]) is not None:
        directory.summary.write_bytes(content)
    assert count_pictures(directory) == expected
    assert json.loads(directory.summary.read_bytes())["ok"] == 480


def test_a_shard_taken_away_is_no_longer_counted(directory: RunDirectory) -> None:
    commit(directory, range(120))
    count_pictures(directory)
    directory.done(3).unlink()
    assert count_pictures(directory).ok == 4 * 119


def test_a_shard_that_is_made_again_is_counted_as_it_now_is(directory: RunDirectory) -> None:
    """With too few shards to renew the summary by itself."""
    commit(directory, range(10))
    count_pictures(directory).save(directory)
    directory.done(3).unlink()
    assert count_pictures(directory).ok == 36
    commit(directory, range(3, 4), ok=1, failed=3)
    assert (count_pictures(directory).ok, count_pictures(directory).failed) == (37, 3)


def test_pictures_written_and_not_published_are_counted_by_the_furthest_attempt(
    directory: RunDirectory,
) -> None:
    for shard, attempt, groups in [(0, 1, 3), (0, 2, 1), (1, 1, 1), (2, 1, 2)]:
        partial = PartialShard(directory, shard, attempt, [])
        for _ in range(groups):
            write_group(partial, 2, failed=1)
        partial.begin(partial.position, 2)
        partial.close()
    assert unpublished_counts(directory, {2}) == (4, 4, Loss())
