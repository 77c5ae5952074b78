"""Trials, of the first pictures or of a sample, go on to the whole manifest."""

from pathlib import Path

import pytest

from batchgen.errors import InputError, JobError, PlanChanged
from batchgen.generations import extend, plan_rest, remake, retry_failed
from batchgen.planning import UNKNOWN, Plan
from batchgen.run import begin_rest_of_sample
from tests.run.test_further import begun, look, records, reopened, table, whole
from tests.run.test_generations import problems
from tests.support.rehearsal import write_prompts
from tests.support.specimens import Mended, worked


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1, 2, 3, 4, 6, 8])
def test_a_trial_and_its_rest_are_the_whole_run(limit: int, tmp_path: Path) -> None:
    """The limit falls between rows and between pictures of one."""
    file = table(tmp_path / "a.parquet", range(5))
    run = worked(begun(tmp_path / "run", file, limit=limit))
    assert look(run) == ("complete", limit, 0, 9 - limit)
    assert problems(run) == []
    assert [row["index"] for row in records(run)] == list(range(limit))
    rest = plan_rest(reopened(run), UNKNOWN)
    assert look(run) == ("stalled", limit, 9 - limit, 0)
    worked(rest)
    assert look(run) == ("complete", 9, 0, 0)
    assert problems(run) == []
    assert [{**row, "shard": None} for row in records(run)] == whole(tmp_path / "whole", file)


def test_a_limit_above_the_manifest_is_the_whole_of_it(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", table(tmp_path / "a.parquet", range(5)), limit=9)
    assert (run.plan.left, run.plan.end) == (0, None)
    assert plan_rest(worked(run), UNKNOWN) == run


def test_appended_rows_come_after_what_a_trial_has_left(tmp_path: Path) -> None:
    files = [table(tmp_path / "a.parquet", range(5)), table(tmp_path / "b.parquet", range(5, 7))]
    run = worked(begun(tmp_path / "run", files[0], limit=4))
    further, told = extend(run, [str(files[1])], UNKNOWN)
    rest = "4 pictures of 2 rows more and 5 that the trial left."
    assert told == f"Generation 1: 9 pictures in 3 shards. {rest}"
    worked(further)
    assert problems(run) == []
    rows = [{**row, "shard": None} for row in records(run)]
    assert rows == whole(tmp_path / "whole", *files)


def test_another_limit_is_refused_and_the_same_goes_on(tmp_path: Path) -> None:
    file = table(tmp_path / "a.parquet", range(5))
    begun(tmp_path / "run", file, limit=4)
    assert begun(tmp_path / "run", file, limit=4).plan.left == 5
    with pytest.raises(PlanChanged, match="was begun with 4 pictures and --limit says 5"):
        begun(tmp_path / "run", file, limit=5)
    assert begun(tmp_path / "run", file).plan.left == 5, "the trial is made first"


@pytest.mark.slow
@pytest.mark.parametrize("sample", [1, 5, 8])
def test_a_sample_and_its_rest_are_the_whole_run(sample: int, tmp_path: Path) -> None:
    file = table(tmp_path / "a.parquet", range(5))
    run = worked(begun(tmp_path / "run", file, sample=sample))
    assert look(run) == ("complete", sample, 0, 9 - sample)
    assert problems(run) == []
    rest = plan_rest(reopened(run), UNKNOWN)
    assert look(run) == ("stalled", sample, 9 - sample, 0)
    worked(rest)
    assert look(run) == ("complete", 9, 0, 0)
    assert problems(run) == []
    assert [{**row, "shard": None} for row in records(run)] == whole(tmp_path / "whole", file)


@pytest.mark.slow
def test_a_sample_is_drawn_from_all_over_the_manifest_and_goes_on_like_any_run(
    tmp_path: Path,
) -> None:
    prompts = [f"a cat {n}" if n % 3 else "RAISE" for n in range(60)]
    file = write_prompts(tmp_path / "a.parquet", prompts)
    run = worked(begun(tmp_path / "run", file, sample=20))
    keys = [row["index"] for row in records(run)]
    assert 10 < sum(keys) / 20 < 50
    assert keys != sorted(range(20))
    run = worked(retry_failed(reopened(run))[0], Mended())
    assert look(run) == ("complete", 20, 0, 40)
    remade = worked(remake(reopened(run), [str(keys[0])])[0], Mended())
    with pytest.raises(InputError, match="this run has no picture with this key"):
        remake(remade, [str(next(key for key in range(60) if key not in keys))])
    with pytest.raises(InputError, match=r"the trial has left pictures before\. Make them first"):
        extend(remade, [str(write_prompts(tmp_path / "b.parquet", ["a fox"]))], UNKNOWN)
    run = worked(plan_rest(reopened(run), UNKNOWN), Mended())
    assert look(run) == ("complete", 60, 0, 0)
    run = worked(extend(reopened(run), [str(tmp_path / "b.parquet")], UNKNOWN)[0])
    assert look(run) == ("complete", 61, 0, 0)
    assert problems(run) == []


def test_a_sample_is_continued_as_a_sample(tmp_path: Path) -> None:
    file = table(tmp_path / "a.parquet", range(5))
    begun(tmp_path / "run", file, sample=4)
    assert begun(tmp_path / "run", file, sample=4).plan.left == 5
    for trial in ({"sample": 5}, {"limit": 4}):
        with pytest.raises(PlanChanged, match="4 pictures, drawn from all over the manifest"):
            begun(tmp_path / "run", file, **trial)
    begun(tmp_path / "first", file, limit=4)
    with pytest.raises(PlanChanged, match="was begun with 4 pictures and --sample says 4"):
        begun(tmp_path / "first", file, sample=4)
    assert begun(tmp_path / "all", file, sample=9).plan.listed is None


def test_a_sample_whose_plan_was_killed_is_planned_again(tmp_path: Path) -> None:
    file = table(tmp_path / "a.parquet", range(5))
    run = begun(tmp_path / "run", file, sample=4)
    run.directory.plan.unlink()
    assert begun(tmp_path / "run", file, sample=4).plan.listed == run.plan.listed


def test_a_rest_that_is_refused_leaves_nothing(tmp_path: Path) -> None:
    run = worked(begun(tmp_path / "run", table(tmp_path / "a.parquet", range(5)), sample=4))
    before = sorted(run.directory.inner.iterdir())

    def refuse(_: Plan) -> None:
        raise JobError("does not fit")

    with pytest.raises(JobError):
        begin_rest_of_sample(run, refuse)
    assert sorted(run.directory.inner.iterdir()) == before


def test_a_sample_of_a_very_large_manifest_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchgen.planning.extension.MOST_SAMPLED", 8)
    with pytest.raises(InputError, match="--sample works with up to 8 pictures"):
        begun(tmp_path / "run", table(tmp_path / "a.parquet", range(5)), sample=4)
    assert not (tmp_path / "run").exists()
