"""The last shard completes the run. Whoever sees it does so, and twice gives the same files."""

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from batchgen import durable, manifest
from batchgen.dataset import contact_sheet
from batchgen.dataset.finalize import finalize_run
from batchgen.run.run import Run
from batchgen.shard import commit
from batchgen.shard.commit import committed_shards, published_shards, read_done
from batchgen.shard.escalation import Task
from batchgen.shard.partial_shard import PartialShard
from batchgen.shard.publish import publish_shard
from tests.support.rehearsal import records
from tests.support.specimens import StubEngine, new_pipeline, picture, planned, worked

PROMPTS = ["a cat", "NAN", "a dog", "RAISE", *["FLAT"] * 4, "a fox", "a hen"]
MADE = ("README.md", "index.json", "statistics.json", "contact.jpg", "report.html")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Three shards: two of four pictures good, none, two of two."""
    return worked(planned(tmp_path, PROMPTS, score=[n / 2 for n in range(10)]))


def content(run: Run) -> dict[str, bytes]:
    return {name: (run.directory.root / name).read_bytes() for name in MADE}


def test_a_worker_finalizes_when_the_last_shard_is_published(run: Run) -> None:
    assert run.directory.complete()
    names = {path.name for path in run.directory.root.iterdir()}
    assert names == {".batchgen", "data", "metadata", *MADE}
    tars = {path.name for path in (run.directory.root / "data").iterdir()}
    assert tars == {"000000.tar", "000002.tar"}
    assert list((run.directory.inner / "partial").rglob("*.*")) == []


def test_the_index_tells_size_sum_and_samples_of_every_tar_there_is(run: Run) -> None:
    index = json.loads(run.directory.index.read_bytes())
    assert index["name"] == "run"
    assert [entry["url"] for entry in index["shardlist"]] == ["data/000000.tar", "data/000002.tar"]
    for entry in index["shardlist"]:
        data = (run.directory.root / entry["url"]).read_bytes()
        assert (entry["nsamples"], entry["filesize"]) == (2, len(data))
        assert entry["md5sum"] == hashlib.md5(data).hexdigest()


def test_the_statistics_are_those_of_the_records(run: Run) -> None:
    told = json.loads((run.directory.root / "statistics.json").read_bytes())
    rows = records(run.directory.root)
    good = [row for row in rows if row["outcome"] == "ok"]
    assert len(good) == 4
    assert (told["pictures"], told["ok"], told["failed"]) == (10, 4, 6)
    assert told["failures"] == {"not finite": 1, "exception": 1, "one colour": 4}
    assert told["sizes"] == {"16x16": 4}
    assert sum(told["paths"].values()) == 4
    assert told["seconds"]["group_denoise_s"] == dict.fromkeys(("mean", "p50", "p95", "p99"), 2.0)
    shares = [row["device_s"] for row in rows]
    assert told["device_s"] == pytest.approx(sum(shares))


def test_a_commit_tells_the_hashes_and_counts_of_what_was_published(run: Run) -> None:
    for shard, (ok, failed) in enumerate([(2, 2), (0, 4), (2, 0)]):
        done = read_done(run.directory, shard)
        assert (done.ok, done.failed, done.first_key) == (ok, failed, 4 * shard)
        assert sum(done.failures.values()) == failed
        metadata = run.directory.metadata(shard).read_bytes()
        assert done.metadata_sha256 == hashlib.sha256(metadata).hexdigest()
        data = run.directory.data(shard).read_bytes() if ok else b""
        assert (done.tar, done.tar_bytes) == (f"{shard:06d}.tar" if ok else None, len(data))
        assert done.tar_sha256 == (hashlib.sha256(data).hexdigest() if ok else "")


def test_the_travelling_columns_stand_beside_their_records(run: Run) -> None:
    for shard in range(3):
        for row in pq.read_table(run.directory.metadata(shard)).to_pylist():
            assert row["extra"] == {"score": row["row"] / 2}


def test_finalizing_again_changes_nothing(run: Run) -> None:
    before = content(run)
    assert finalize_run(run)
    assert content(run) == before


def test_a_finalizing_that_broke_off_is_repeated_with_the_same_result(run: Run) -> None:
    before = content(run)
    for name in MADE:
        durable.remove(run.directory.root / name)
        durable.remove(run.directory.index)
        assert finalize_run(run)
        assert content(run) == before


def test_a_commit_that_was_not_rolled_forward_is_completed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker died between its last commit and the published names."""
    run = planned(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(commit, "roll_forward", lambda _directory, _shard: None)
        commit_only(run)
    assert (committed_shards(run.directory), published_shards(run.directory)) == ({0}, set())
    assert finalize_run(run)
    assert published_shards(run.directory) == {0}
    assert list((run.directory.inner / "partial").rglob("*.*")) == []


def commit_only(run: Run) -> None:
    partial = PartialShard(run.directory, 0, 1, [])
    pipeline = new_pipeline(StubEngine(), format="jpg")
    list(pipeline.run(partial, [Task(0, [picture()])], lambda _: True))
    pipeline.close()
    extras = manifest.extra_columns(manifest.read_rows(run.plan.sources, 0, 1).travelling)
    assert publish_shard(run.directory, partial, run.plan.shards[0], extras, run.plan)
    partial.close()


def test_an_unfinished_run_is_not_finalized(run: Run) -> None:
    """A run from which a damaged shard was taken away is unfinished again."""
    run.directory.done(1).unlink()
    run.directory.metadata(1).unlink()
    index = run.directory.index.read_bytes()
    assert not finalize_run(run)
    assert not run.directory.complete()
    assert (run.directory.replaced / "0001" / "index.json").read_bytes() == index


def test_a_shard_taken_away_is_made_again_and_the_run_is_what_it_was(run: Run) -> None:
    """The messages of `verify` and of a damaged commit tell people to do this."""
    before = run.directory.index.read_bytes(), run.directory.data(0).read_bytes()
    for path in (run.directory.done(0), run.directory.data(0), run.directory.metadata(0)):
        path.unlink()
    for claim in (run.directory.inner / "claims").rglob("000000.*"):
        claim.unlink()
    assert not finalize_run(run)
    worked(run)
    assert run.directory.complete()
    assert (run.directory.index.read_bytes(), run.directory.data(0).read_bytes()) == before


def test_the_contact_sheet_shows_the_good_pictures(run: Run) -> None:
    with Image.open(run.directory.root / "contact.jpg") as sheet:
        assert sheet.width == 4 * (160 + 8) + 8


def test_the_contact_sheet_shows_pictures_from_the_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, shown = worked(planned(tmp_path, [f"prompt {n}" for n in range(10)])), []
    monkeypatch.setattr(contact_sheet, "PICTURES", 3)
    monkeypatch.setattr(
        contact_sheet.textwrap, "wrap", lambda prompt, *_, **__: shown.append(prompt) or [prompt]
    )
    data = run.directory.data
    tars = [contact_sheet.Tar(data(shard), count) for shard, count in enumerate((4, 4, 2))]
    assert contact_sheet.contact_sheet(tars, run.job.output.format)
    assert shown == ["prompt 1", "prompt 5", "prompt 8"]


def test_a_run_without_one_good_picture_is_complete_and_says_so(tmp_path: Path) -> None:
    run = worked(planned(tmp_path, ["NAN", "RAISE"]))
    assert run.directory.complete()
    assert not (run.directory.root / "contact.jpg").exists()
    assert json.loads(run.directory.index.read_bytes())["shardlist"] == []
    assert "0 pictures painted" in (run.directory.root / "README.md").read_text()
