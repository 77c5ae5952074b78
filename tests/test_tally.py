"""What is done is counted from files, each opened once; the summary saves time and decides nothing."""

import json
from pathlib import Path

import pytest
from specimens import done, new_store, opens, write_group

from batchgen.partial import Partial
from batchgen.store import Store
from batchgen.tally import SAVE_AFTER, Tally, tally, unpublished


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return new_store(tmp_path, 1500)


def commit(store: Store, shards: range, **given: object) -> None:
    for shard in shards:
        store.done(shard).write_bytes(done(shard, **given).encode())


def test_counts_are_sums_over_the_commits(store: Store) -> None:
    commit(store, range(2), ok=3, failed=1, failures={"one colour": 1}, tar_bytes=50, group_s=1.5)
    commit(store, range(7, 8), ok=0, failed=4, failures={"one colour": 1, "exception": 3}, tar=None, tar_bytes=0, group_s=4.0)
    counts = tally(store)
    assert (counts.shards, counts.ok, counts.failed, counts.bytes, counts.device_s) == ({0, 1, 7}, 6, 6, 100, 7.0)
    assert counts.failures == {"one colour": 3, "exception": 3}


def test_a_second_look_opens_only_what_is_new(store: Store) -> None:
    commit(store, range(1200))
    first = tally(store)
    commit(store, range(1300, 1305))
    with opens(store.root) as opened:
        second = tally(store)
    assert (first.ok, second.ok) == (4 * 1200, 4 * 1205)
    assert len(opened) == 1 + 5, "the summary and the new commits"


def test_a_few_new_commits_are_not_worth_a_summary_and_many_are(store: Store) -> None:
    commit(store, range(SAVE_AFTER - 1))
    tally(store)
    assert not store.summary.exists()
    commit(store, range(SAVE_AFTER))
    tally(store)
    assert Tally.load(store) == tally(store)


@pytest.mark.parametrize("shards", [set(), {0}, {0, 2}, {3, 4, 5}, {0, 2, 3, 7, 9, 10, 1499}])
def test_a_summary_remembers_exactly_the_shards_it_counted(shards: set[int], store: Store) -> None:
    Tally(shards=shards, ok=3).save(store)
    assert Tally.load(store) == Tally(shards=shards, ok=3)


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
def test_a_summary_that_is_no_use_is_recomputed(name: str, store: Store) -> None:
    commit(store, range(120))
    expected = tally(store)
    store.summary.unlink()
    if (content := DAMAGE[name]) is not None:
        store.summary.write_bytes(content)
    assert tally(store) == expected
    assert json.loads(store.summary.read_bytes())["ok"] == 480


def test_a_shard_taken_away_is_no_longer_counted(store: Store) -> None:
    commit(store, range(120))
    tally(store)
    store.done(3).unlink()
    assert tally(store).ok == 4 * 119


def test_a_shard_that_is_made_again_is_counted_as_it_now_is(store: Store) -> None:
    """With too few shards to renew the summary by itself."""
    commit(store, range(10))
    tally(store).save(store)
    store.done(3).unlink()
    assert tally(store).ok == 36
    commit(store, range(3, 4), ok=1, failed=3)
    assert (tally(store).ok, tally(store).failed) == (37, 3)


def test_pictures_written_and_not_published_are_counted_by_the_furthest_attempt(store: Store) -> None:
    for shard, attempt, groups in [(0, 1, 3), (0, 2, 1), (1, 1, 1), (2, 1, 2)]:
        partial = Partial(store, shard, attempt, [])
        for _ in range(groups):
            write_group(partial, 2, failed=1)
        partial.begin(partial.position, 2)
        partial.close()
    assert unpublished(store, {2}) == (4, 4)
