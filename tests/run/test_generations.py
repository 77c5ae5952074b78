"""Pictures that failed are tried again: new shards, old files untouched, every picture once."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from batchgen import attach
from batchgen.checked_json import seal, unseal
from batchgen.dataset.finalize import finalize_run
from batchgen.dataset.verify import verify_run
from batchgen.errors import InputError, OutputError, PlanChanged, StillRunning
from batchgen.generations import retry_failed
from batchgen.run import Departure, LeaveCause, submissions
from batchgen.run.generations import begin_again
from batchgen.run.plan_files import load_plan
from batchgen.run.run import Run, open_run
from batchgen.shard.tally import count_pictures
from batchgen.view.status import Status, read_status
from tests.run.conftest import PROMPTS
from tests.support.specimens import Mended, copied, planned, worked

FAILED = [1, 3, 4, 5, 6, 7]


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Run:
    return copied(made, tmp_path)


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


def test_a_generation_waits_for_the_workers_of_the_one_before(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may still write what they have completed. Meanwhile nothing is begun."""
    monkeypatch.setattr("batchgen.generations.LEAVE_S", 0.1)
    submission = submissions.record_submission(run.directory, ["test"], 1)
    me = submissions.join(run.directory, submission.number, "worker")
    with pytest.raises(StillRunning, match="some of its workers or jobs are still there"):
        retry_failed(run)
    assert run.directory.complete()
    assert not list(run.directory.inner.glob("keys-*"))
    submissions.leave(me, Departure(LeaveCause.ALL_DONE))
    assert retry_failed(run)[0].plan.last_generation == 1


def test_who_looked_before_another_began_a_generation_is_told(run: Run) -> None:
    worked(retry_failed(run)[0], Mended())
    with pytest.raises(OutputError, match="another command has just begun generation 1"):
        retry_failed(run)


def test_what_is_only_left_to_complete_is_not_tried_a_second_time(run: Run) -> None:
    worked(retry_failed(run)[0], Mended("FLAT"))
    run.directory.index.unlink()  # as if it was killed before it wrote this
    same, told = retry_failed(open_run(run.directory.root))
    assert told == "Generation 1, which tries failed pictures again, goes on."
    assert look(same) == ("complete", 6, 4, 0)
    assert retry_failed(same)[0].plan.last_generation == 2


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


def rewrite(path: Path, **values: object) -> None:
    """Change a plan as a person would who knows its checksum."""
    path.write_bytes(seal(unseal(path.read_bytes()) | values))
