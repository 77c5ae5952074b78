"""Runs begun by batchgen 0.1.0 are resumed, verified and read by this version, byte for byte."""

import hashlib
import json
import tarfile
from pathlib import Path

import datasets
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import batchgen
from batchgen.errors import PlanChanged
from batchgen.planning import as_before, identify_run, refuse_change
from batchgen.run import inspect_run
from batchgen.settings import load_job
from tests.support.rehearsal import ask, status

ARCHIVE = Path(__file__).parent / "data" / "run-0.1.0.tar.gz"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the old runs, on the node that wrote them."""
    monkeypatch.setenv("SLURMD_NODENAME", "old-node")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    for path in tmp_path.rglob("*"):
        if path.is_file() and b"@ROOT@" in (content := path.read_bytes()):
            path.write_bytes(content.replace(b"@ROOT@", str(tmp_path).encode()))
    return tmp_path


def hashes(run: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((run / "data").glob("*.tar"))
    }


def journaled(run: Path) -> list[dict[str, object]]:
    """The records that the journal of the one unpublished shard counts as written."""
    (journal,) = run.rglob("*.journal")
    (records,) = run.rglob("*.records")
    last_end = json.loads(journal.read_text().splitlines()[-1].rpartition(" ")[0])
    assert last_end["do"] == "end"
    return [json.loads(line) for line in records.read_bytes()[: last_end["records"]].splitlines()]


@pytest.mark.slow
def test_a_half_done_run_is_resumed_to_the_tars_that_its_own_version_would_have_made(
    old: Path,
) -> None:
    run = old / "half"
    published, written, told = hashes(run), journaled(run), status(run)
    assert (told["state"], told["ok"], told["in_progress"]) == ("stalled", 16, len(written))
    assert ask("resume", run, "--set", "pattern.delay_s=0").code == 0
    expected = json.loads((old / "expected.json").read_text())
    assert published.items() < expected.items()
    assert hashes(run) == expected
    assert ask("verify", run, "--deep").code == 0
    # The group that was written is kept, with its times; it is not made again.
    final = pq.read_table(run / "metadata" / "000002.parquet").sort_by("key").to_pylist()
    assert [row | old for row, old in zip(final, written, strict=False)] == final[: len(written)]


def test_a_finished_run_is_verified_and_submitted_again_to_no_effect(old: Path) -> None:
    run = old / "painted"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert ask("verify", run, "--deep").code == 0
    assert status(run)["state"] == "complete"
    assert ask("resume", run).code == 0
    assert {path: path.read_bytes() for path in before} == before


def test_its_pictures_have_no_xmp_and_cannot_be_asked_to_have_it(old: Path) -> None:
    run = inspect_run(old / "half")
    assert run.job.output.xmp is False
    recorded = load_job(run.directory.job, ["output.xmp=true"])
    identity = identify_run(as_before(recorded, run.plan), run.plan.identity["manifest"], {})
    with pytest.raises(PlanChanged, match=r"output\.xmp: false → true"):
        refuse_change(run.plan, identity, "half")
    usual = identify_run(run.job, run.plan.identity["manifest"], {})
    refuse_change(run.plan, usual, "half")


def test_a_finished_run_is_read_as_a_dataset(old: Path) -> None:
    rows = datasets.load_dataset(str(old / "painted"), cache_dir=str(old / "cache"))["train"]
    assert len(rows) == 12
    assert rows[0]["txt"] == "a red circle"
    assert rows[0]["jpg"].size == (64, 64)


def test_an_old_run_is_a_dataset_for_training(old: Path) -> None:
    where = (pc.field("device_s") >= 0) & (pc.field("prompt_place") < 1)
    pictures = batchgen.dataset(old / "half", where=where)
    assert pictures.pictures == len({one["txt"] + one["__key__"] for one in pictures}) == 16


def test_a_finished_run_is_exported_with_the_hashes_it_has(old: Path) -> None:
    """Its records have no hash of a picture, and those of the copy need none."""
    assert ask("export", old / "painted", old / "copy").code == 0
    exported = pq.read_table(old / "copy" / "metadata")
    assert exported.num_rows == pq.read_table(old / "painted" / "metadata").num_rows
    for tar in pc.unique(exported["tar"]).drop_null().to_pylist():
        assert (old / "copy" / tar).exists()
