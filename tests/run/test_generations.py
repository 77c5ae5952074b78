"""Pictures that failed are tried again: new shards, old files untouched, every picture once."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.api import attach
from batchgen.checked_json import seal, unseal
from batchgen.dataset.finalize import finalize_run
from batchgen.dataset.verify import verify_run
from batchgen.errors import DamagedRun, InputError, OutputError, PlanChanged
from batchgen.generations import retry_failed
from batchgen.manifest import Picture
from batchgen.run.generations import begin_again
from batchgen.run.plan_files import load_plan
from batchgen.run.run import Run, open_run
from batchgen.shard.claims import Claim
from batchgen.shard.tally import count_pictures
from batchgen.view.status import Status, read_status
from tests.support.specimens import StubEngine, planned, worked

# Shards of four pictures; the second has no good one.
PROMPTS = ["a cat", "NAN", "a dog", "RAISE", *["FLAT"] * 4, "a fox", "a hen"]
FAILED = [1, 3, 4, 5, 6, 7]


class Mended(StubEngine):
    """Makes what failed, but for some."""

    def __init__(self, *still: str) -> None:
        super().__init__()
        self._still = still

    def _strikes(self, group: Sequence[Picture], fault: str) -> bool:
        return fault in self._still and super()._strikes(group, fault)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("made")
    return worked(planned(folder, PROMPTS, score=[n / 2 for n in range(10)]))


@pytest.fixture(scope="module")
def remade(made: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same with its failures made again; four of six failed once more."""
    run = copied(made, tmp_path_factory.mktemp("remade"))
    return worked(retry_failed(run)[0], Mended("FLAT"))


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Run:
    return copied(made, tmp_path)


@pytest.fixture
def retried(remade: Run, tmp_path: Path) -> Run:
    return copied(remade, tmp_path)


def copied(run: Run, folder: Path) -> Run:
    return open_run(Path(shutil.copytree(run.directory.root, folder / "run")))


def files(run: Run) -> dict[str, str]:
    """Published files, and their hashes."""
    paths = [*run.directory.root.glob("data/*"), *run.directory.root.glob("metadata/*")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def problems(run: Run) -> list[str]:
    found = verify_run(open_run(run.directory.root), deep=True, manifest=True)
    return [problem for finding in found for problem in finding.problems]


def counts(status: Status) -> tuple[str, int, int, int]:
    return status.state, status.ok, status.failed, status.pending


def look(run: Run) -> tuple[str, int, int, int]:
    return counts(read_status(run.directory))


def test_failed_pictures_are_made_in_new_shards_and_every_picture_counts_once(run: Run) -> None:
    before = files(run)
    assert look(run) == ("complete", 4, 6, 0)
    again, told = retry_failed(run)
    assert told == "Generation 1: 6 pictures in 2 shards."
    assert look(run) == ("stalled", 4, 0, 6), "what is tried again is pending"
    assert not run.directory.complete()
    worked(again, Mended())
    assert look(run) == ("complete", 10, 0, 0)
    assert before.items() < files(run).items()
    assert {"000003.parquet", "000004.parquet", "000004.tar"} <= files(run).keys()
    assert problems(run) == []
    records = attach(run.directory.root).records(["index", "outcome", "generation", "tar"])
    rows = records.to_pylist()
    assert [row["index"] for row in rows] == list(range(10))
    assert [row["index"] for row in rows if row["generation"] == 1] == FAILED
    assert {row["tar"] for row in rows if row["generation"] == 1} == {
        f"data/00000{n}.tar" for n in (3, 4)
    }
    index = json.loads(run.directory.index.read_bytes())
    assert index["generation"] == 1
    assert sum(one["nsamples"] for one in index["shardlist"]) == 10


def test_a_picture_that_is_made_again_is_the_one_that_the_whole_run_would_have_made(
    run: Run, tmp_path: Path
) -> None:
    worked(retry_failed(run)[0], Mended())
    (tmp_path / "other").mkdir()
    whole = worked(planned(tmp_path / "other", PROMPTS, score=[n / 2 for n in range(10)]), Mended())
    columns = ["key", "row", "prompt", "seed", "extra", "image_bytes", "outcome"]
    one, other = (attach(each.directory.root).records(columns) for each in (run, whole))
    assert one.sort_by("key").to_pylist() == other.sort_by("key").to_pylist()


def test_what_fails_again_has_its_later_record_and_is_tried_once_more(retried: Run) -> None:
    run = retried
    assert look(run) == ("complete", 6, 4, 0)
    third, told = retry_failed(run)
    assert told == "Generation 2: 4 pictures in 1 shard."
    assert look(run) == ("stalled", 6, 0, 4)
    worked(third, Mended())
    assert look(run) == ("complete", 10, 0, 0)
    assert problems(run) == []
    generations = attach(run.directory.root).records(["generation"])["generation"].to_pylist()
    assert generations == [0, 1, 0, 1, 2, 2, 2, 2, 0, 0]


def test_the_statistics_count_every_picture_once_and_all_the_work(retried: Run) -> None:
    run = retried
    told = json.loads((run.directory.root / "statistics.json").read_bytes())
    assert (told["pictures"], told["ok"], told["failed"], told["again"]) == (10, 6, 4, 0)
    assert told["failures"] == {"one colour": 4}
    shares = pq.read_table(run.directory.root / "metadata")["device_s"].to_pylist()
    assert len(shares) == 16
    assert told["device_s"] == pytest.approx(sum(shares))
    card = (run.directory.root / "README.md").read_text()
    assert "| generation 1 | what had failed, once more: 6 pictures, planned 2" in card


def test_a_summary_of_the_generation_before_is_counted_anew(run: Run) -> None:
    count_pictures(run.directory).save(run.directory)
    again, _ = retry_failed(run)
    seen = count_pictures(run.directory)
    assert (seen.ok, seen.failed, seen.failures) == (4, 0, {})
    worked(again, Mended("FLAT"))
    kept = count_pictures(run.directory)
    run.directory.summary.unlink()
    assert count_pictures(run.directory) == kept


def test_without_failures_there_is_nothing_to_try_again(tmp_path: Path) -> None:
    run = worked(planned(tmp_path, ["a cat", "a dog"]))
    assert retry_failed(run) == (run, "No picture has failed: there is nothing to try again.")
    assert run.directory.complete()


def test_a_run_that_is_not_complete_goes_on_first(tmp_path: Path) -> None:
    run = planned(tmp_path, PROMPTS)
    with pytest.raises(InputError, match="is not complete, and what is planned comes first"):
        retry_failed(run)


def test_the_same_again_continues_a_generation_that_is_not_made(run: Run) -> None:
    retry_failed(run)
    same, told = retry_failed(open_run(run.directory.root))
    assert told == "Generation 1, which tries failed pictures again, goes on."
    assert same.plan.last_generation == 1
    assert not run.directory.generation(2).exists()


def test_of_two_who_begin_a_generation_at_once_one_is_told(run: Run) -> None:
    mine = begin_again(run, "retry", np.array(FAILED), np.array([0, 0, 1, 1, 1, 1]))
    with pytest.raises(OutputError, match="another command has just begun generation 1"):
        begin_again(run, "retry", np.array([4]), np.array([1]))
    assert load_plan(run.directory) == mine.plan
    assert len(list(run.directory.inner.glob("keys-*"))) == 1
    with pytest.raises(OutputError, match="another command"):  # of the same list
        begin_again(run, "retry", np.array(FAILED), np.array([0, 0, 1, 1, 1, 1]))
    assert len(list(run.directory.inner.glob("keys-*"))) == 1


def test_a_process_of_the_generation_before_does_not_complete_the_next(run: Run) -> None:
    index = run.directory.index.read_bytes()
    retry_failed(run)
    assert not finalize_run(run), "as a worker that was halted before it completed its run"
    assert run.directory.index.read_bytes() == index
    worked(open_run(run.directory.root), Mended())
    run.directory.index.write_bytes(index)  # as one halted even later
    assert not run.directory.complete()
    assert finalize_run(open_run(run.directory.root))
    assert run.directory.complete()


def test_what_would_be_made_otherwise_now_is_refused(run: Run) -> None:
    cache = run.job.cache.model_copy(update={"policy": "multistep"})
    changed = replace(run, job=run.job.model_copy(update={"cache": cache}))
    with pytest.raises(PlanChanged, match=r'cache.policy: "none" → "multistep"'):
        retry_failed(changed)
    assert run.directory.complete()


def test_a_generation_that_others_may_write_is_refused(run: Run) -> None:
    retry_failed(run)
    assert run.directory.generation(1).stat().st_mode & 0o777 == 0o600
    run.directory.generation(1).chmod(0o622)
    with pytest.raises(OutputError, match="others can change"):
        open_run(run.directory.root)


def rewrite(path: Path, **values: object) -> None:
    """Change a plan as a person would who knows its checksum."""
    path.write_bytes(seal(unseal(path.read_bytes()) | values))


def test_a_list_that_was_changed_is_refused_and_told_once(retried: Run) -> None:
    run = retried
    (path,) = run.directory.inner.glob("keys-0001.*")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.rename(path.with_name("kept"))
    path.write_bytes(content)
    copied = run.directory.root.rename(run.directory.root.with_name("copied"))
    found = [f"{path.name}: not the list that was planned: its hash is not the planned one"]
    told = problems(replace(run, directory=type(run.directory)(copied)))
    assert len(told) == 1
    assert found[0] in told[0]
    with pytest.raises(DamagedRun, match="not the list that was planned"):
        read_status(type(run.directory)(copied))


@pytest.mark.parametrize(
    ("column", "wrong"),
    [
        ("shard", "names other shards than those that have its pictures"),
        ("row", "its column row is not that of the manifest"),
        ("index", "not a list of 6 pictures"),
    ],
)
def test_verify_compares_a_list_with_the_manifest_and_the_plans(
    retried: Run, column: str, wrong: str
) -> None:
    run = retried
    (path,) = run.directory.inner.glob("keys-0001.*")
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[1] = values[0] if column == "index" else 2
    table = table.set_column(table.column_names.index(column), column, pa.array(values))
    other = path.with_name("keys-0001.other.parquet")
    pq.write_table(table, other)
    sha256 = hashlib.sha256(other.read_bytes()).hexdigest()
    rewrite(run.directory.generation(1), listed={"file": other.name, "sha256": sha256})
    assert any(wrong in problem for problem in problems(run))


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"run": "another"}, "it is of another run"),
        ({"generation": 2}, "it is generation 2, and 0 is before it"),
        ({"parent": "0" * 64}, "the plan before it is not the one that it continues"),
        ({"first_shard": 4}, "its shards begin with 4, and 3 are before"),
        ({"pictures": 5}, "its shards do not have 5 pictures together"),
        ({"version": 9}, "its version is 9"),
    ],
)
def test_a_generation_that_does_not_follow_is_refused(
    run: Run, values: dict[str, object], wrong: str
) -> None:
    retry_failed(run)
    rewrite(run.directory.generation(1), **values)
    with pytest.raises(DamagedRun, match=wrong):
        load_plan(run.directory)


def test_a_generation_whose_plan_is_gone_leaves_strangers_or_a_gap(retried: Run) -> None:
    run = retried
    worked(retry_failed(run)[0], Mended())
    last, first = run.directory.generation(2), run.directory.generation(1)
    last.rename(last.with_name("kept"))
    told = problems(run)
    assert any("000005.tar: was not published by this run" in problem for problem in told)
    last.with_name("kept").rename(last)
    first.unlink()
    with pytest.raises(DamagedRun, match=r"plan-0001.json: is gone"):
        load_plan(run.directory)


def test_a_damaged_shard_of_an_older_generation_is_made_again_as_of_its_own(retried: Run) -> None:
    run = retried
    run.directory.metadata(0).unlink()
    assert look(run)[0] == "stalled"
    # As a repair does it, which would not while a worker of this process lives.
    run.directory.data(0).unlink()
    run.directory.done(0).unlink()
    Claim(run.directory, 0, 1).release()
    mended = open_run(run.directory.root)
    assert look(run) == ("stalled", 4, 4, 2)
    worked(mended)
    assert look(run) == ("complete", 6, 4, 0), "its failures count no more, this time too"
    assert problems(run) == []
    made = pq.read_table(run.directory.metadata(0))
    assert set(made["generation"].to_pylist()) == {0}
