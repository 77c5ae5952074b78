"""A real S3 server: what it tells of its objects is compared; what it does not tell is read."""

import hashlib
from pathlib import Path

import fsspec
import pytest

import batchgen
from batchgen.dataset.push import store
from batchgen.dataset.push.item import Item
from batchgen.errors import OutputError, Unreachable
from tests.dataset.push.conftest import Die, keep_shards
from tests.dataset.push.test_push import SHARDS, dataset
from tests.support.rehearsal import ask

URL = "s3://cats/set"
pytestmark = pytest.mark.slow


def objects(s3, prefix: str = "set/") -> dict[str, bytes]:
    listed = s3.list_objects_v2(Bucket="cats", Prefix=prefix).get("Contents", [])
    found = {}
    for key in (one["Key"] for one in listed):
        found[key.removeprefix(prefix)] = s3.get_object(Bucket="cats", Key=key)["Body"].read()
    return found


@pytest.fixture
def nothing_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.Store, "_read_back", lambda *_: pytest.fail("it was read back"))


def test_a_bucket_gets_the_dataset_and_tells_that_it_has_it(
    run: Path, s3, nothing_read: None
) -> None:
    first = ask("push", run, URL)
    assert (first.code, objects(s3)) == (0, dataset(run)), first.err
    modified = {
        one["Key"]: one["LastModified"] for one in s3.list_objects_v2(Bucket="cats")["Contents"]
    }
    again = ask("push", run, URL)
    assert "0 of them sent now" in again.out
    listed = s3.list_objects_v2(Bucket="cats")["Contents"]
    assert modified == {one["Key"]: one["LastModified"] for one in listed}
    assert "very-secret" not in first.out + first.err


def test_a_changed_object_is_found_and_replaced_only_if_asked(run: Path, s3) -> None:
    batchgen.attach(run).push(URL)
    content = bytearray(objects(s3)["data/000002.tar"])
    content[700] ^= 1
    s3.put_object(Bucket="cats", Key="set/data/000002.tar", Body=bytes(content))
    with pytest.raises(OutputError, match=r"data/000002\.tar: of the same size, and another"):
        batchgen.attach(run).push(URL)
    assert batchgen.attach(run).push(URL, replace=True).sent == 1
    assert objects(s3) == dataset(run)


def test_what_is_sent_in_parts_is_known_by_the_hash_of_its_parts(
    tmp_path: Path, s3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_PART_BYTES", 5 << 20)
    path = tmp_path / "big.tar"
    path.write_bytes(bytes(range(256)) * (11 << 12))
    item = Item("data/000000.tar", path, path.stat().st_size, _sha256(path), "")
    place = store.Store(URL)
    place.put([[item]], lambda _: None)
    assert s3.head_object(Bucket="cats", Key="set/data/000000.tar")["ETag"].endswith('-3"')
    place = store.Store(URL)
    assert place.look() == {"data/000000.tar"}
    read: list[str] = []
    monkeypatch.setattr(place, "_read_back", lambda name: read.append(name) or item.sha256)
    assert (place.difference(item), read) == ("", [])
    monkeypatch.setattr(store, "_PART_BYTES", 6 << 20)  # sent in other parts: it is read
    assert (place.difference(item), read) == ("", ["data/000000.tar"])


def test_where_an_etag_says_nothing_the_sha256_of_the_server_does(
    run: Path, s3, nothing_read: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for objects that S3 encrypts with KMS."""
    monkeypatch.setattr(Item, "md5", lambda _: "another")
    batchgen.attach(run).push(URL)
    assert batchgen.attach(run).push(URL).sent == 0
    content = bytearray(objects(s3)["data/000002.tar"])
    content[700] ^= 1
    key = "set/data/000002.tar"
    s3.put_object(Bucket="cats", Key=key, Body=bytes(content), ChecksumAlgorithm="SHA256")
    with pytest.raises(OutputError, match=r"data/000002\.tar: of the same size, and another"):
        batchgen.attach(run).push(URL)


def test_a_bucket_that_is_not_there_is_told(run: Path, s3) -> None:
    with pytest.raises(Unreachable, match=r"^s3://nowhere/x: .*bucket"):
        batchgen.attach(run).push("s3://nowhere/x")


def test_missing_credentials_are_told(
    run: Path, s3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(Unreachable, match=r"credentials"):
        batchgen.attach(run).push("s3://cats/nobody")


def test_a_push_to_a_bucket_that_is_killed_at_any_step_is_continued(
    run: Path, s3, die: Die
) -> None:
    keep_shards(run, 2)
    whole, step = dataset(run), 0
    while code := die(run, f"s3://cats/{step}", step):
        assert code == -9
        seen = objects(s3, f"{step}/")
        assert seen.items() <= whole.items(), "half a file is visible"
        assert "data/000000.tar" in seen or "metadata/000000.parquet" not in seen
        assert seen.keys() >= SHARDS or not seen.keys() & {"README.md", "index.json"}
        assert seen == whole or "index.json" not in seen
        batchgen.attach(run).push(f"s3://cats/{step}")
        assert objects(s3, f"{step}/") == whole
        step += 1
    assert step == len(whole)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
