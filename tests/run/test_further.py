"""Rows are appended to a run: keys and rows continue, as if all files were one manifest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest

from batchgen import attach, durable
from batchgen.errors import DamagedRun, InputError, ManifestError, OutputError, PlanChanged
from batchgen.generations import extend, retry_failed
from batchgen.planning import UNKNOWN
from batchgen.run.generations import begin_further
from batchgen.run.plan_files import load_plan
from batchgen.run.run import Run, create, open_run
from batchgen.settings.job import load_job
from batchgen.view.status import read_status
from tests.run.test_generations import problems, rewrite
from tests.support.rehearsal import write_prompts
from tests.support.specimens import PIXELS, Mended, planned, worked

SMALL = [
    "engine.kind=pattern",
    f"sampling.width={PIXELS}",
    f"sampling.height={PIXELS}",
    "engine.batch_size=2",
]
COLUMNS = ["index", "row", "image", "id", "prompt", "seed", "extra", "outcome", "shard"]


def table(path: Path, numbers: Sequence[int], **columns: Any) -> Path:
    """Rows of one to three pictures each; they have ids and a column that travels along."""
    return write_prompts(
        path,
        [f"a cat {n}" for n in numbers],
        id=[f"cat-{n}" for n in numbers],
        images=[1 + n % 3 for n in numbers],
        score=[n / 2 for n in numbers],
        **columns,
    )


def begun(folder: Path, *files: Path, **trial: int) -> Run:
    job = load_job(None, [*SMALL, "shards.pictures=4"])
    return create(folder, [str(file) for file in files], job, None, **trial)[0]


def records(run: Run, *columns: str) -> list[dict[str, Any]]:
    rows = attach(run.directory.root).records(columns or COLUMNS).to_pylist()
    return sorted(rows, key=lambda row: int(row["index"])) if not columns else rows


def reopened(run: Run) -> Run:
    return open_run(run.directory.root)


def look(run: Run) -> tuple[str, int, int, int]:
    seen = read_status(run.directory)
    return seen.state, seen.ok, seen.pending, seen.unplanned


@pytest.fixture
def first(tmp_path: Path) -> Run:
    """Five rows of 1, 2, 3, 1 and 2 pictures."""
    return worked(begun(tmp_path / "run", table(tmp_path / "a.parquet", range(5))))


def whole(folder: Path, *files: Path) -> list[dict[str, Any]]:
    """The records of a run that was planned from all files at once, without their shards."""
    rows = records(worked(begun(folder, *files)))
    return [{**row, "shard": None} for row in rows]


def test_appended_rows_are_those_of_one_manifest_with_all_files(first: Run, tmp_path: Path) -> None:
    more = table(tmp_path / "b.parquet", range(5, 12))
    further, told = extend(first, [str(more)], UNKNOWN)
    assert told == "Generation 1: 15 pictures in 4 shards. 15 pictures of 7 rows more."
    assert look(first) == ("stalled", 9, 15, 0)
    worked(further)
    assert look(first) == ("complete", 24, 0, 0)
    assert problems(first) == []
    rows = records(first)
    assert [row["shard"] for row in rows[9:]] == [3] * 4 + [4] * 4 + [5] * 4 + [6] * 3
    wanted = whole(tmp_path / "whole", tmp_path / "a.parquet", more)
    assert [{**row, "shard": None} for row in rows] == wanted


def test_rows_are_appended_again_and_failures_of_both_are_retried(tmp_path: Path) -> None:
    run = worked(planned(tmp_path, ["a cat", "RAISE", "a dog"], id=["1", "2", "3"]))
    for number, name in enumerate(["NAN", "FLAT"]):
        more = write_prompts(tmp_path / name, ["a fox", name], id=[f"{number}a", f"{number}b"])
        run = worked(extend(run, [str(more.rename(f"{more}.parquet"))], UNKNOWN)[0])
    assert look(run) == ("complete", 4, 0, 0)
    worked(retry_failed(reopened(run))[0], Mended())
    assert look(run) == ("complete", 7, 0, 0)
    assert problems(run) == []
    rows = records(run, "index", "row", "generation", "prompt")
    assert [(row["row"], row["generation"]) for row in rows] == [
        (0, 0),
        (1, 3),
        (2, 0),
        (3, 1),
        (4, 3),
        (5, 2),
        (6, 3),
    ]


@pytest.mark.slow
def test_text_tables_are_appended_to_parquet_and_the_other_way_round(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"prompt": "a cat", "score": 1.5}\n{"prompt": "a dog", "score": 2.5}\n')
    run = worked(begun(tmp_path / "run", lines))
    parquet = write_prompts(tmp_path / "b.parquet", ["a fox"], score=[3.5])
    run = worked(extend(run, [str(parquet)], UNKNOWN)[0])
    lines.write_text('{"prompt": "a hen", "score": 4.5}\n')
    run = worked(extend(run, [str(lines)], UNKNOWN)[0])
    lines.unlink()  # the run has its own copy
    moved = run.directory.root.rename(tmp_path / "moved")
    again = open_run(moved)
    assert problems(again) == []
    extras = [row["extra"]["score"] for row in records(again)]
    assert extras == [1.5, 2.5, 3.5, 4.5]
    parquet.rename(tmp_path / "elsewhere.parquet")
    with pytest.raises(PlanChanged, match=r"b.parquet: the manifest .* cannot be read"):
        open_run(moved)


def test_rows_behind_a_url_are_appended_from_the_runs_own_copy(first: Run, tmp_path: Path) -> None:
    more = table(tmp_path / "b.parquet", range(5, 12))
    url, fs = "memory://more/b.parquet", fsspec.filesystem("memory")
    for name in ("b", "c"):
        fs.pipe(f"/more/{name}.parquet", more.read_bytes())
    further, _ = extend(first, [url], UNKNOWN)
    _, told = extend(reopened(first), [url], UNKNOWN)
    assert told == "Generation 1, with these rows, goes on."
    with pytest.raises(InputError, match="what is planned comes first"):
        extend(reopened(first), ["memory://more/c.parquet"], UNKNOWN)
    fs.rm("/more", recursive=True)
    worked(further)
    assert problems(open_run(first.directory.root.rename(tmp_path / "moved"))) == []
    wanted = whole(tmp_path / "whole", tmp_path / "a.parquet", more)
    made = records(open_run(tmp_path / "moved"))
    assert [{**row, "shard": None} for row in made] == wanted


def test_appended_files_are_found_where_they_were_moved(first: Run, tmp_path: Path) -> None:
    more = table(tmp_path / "b.parquet", range(5, 12))
    worked(extend(first, [str(more)], UNKNOWN)[0])
    places = tmp_path / "elsewhere"
    places.mkdir()
    for file in (tmp_path / "a.parquet", more):
        file.rename(places / file.name)
    with pytest.raises(PlanChanged, match="cannot be read"):
        reopened(first)
    assert problems(open_run(first.directory.root, [], [str(places)])) == []
    third = table(tmp_path / "c.parquet", range(20, 22))
    assert look(worked(extend(reopened(first), [str(third)], UNKNOWN)[0])) == ("complete", 28, 0, 0)


BAD = {
    "an id that the run has": ({"numbers": range(4, 6)}, "cat-4"),
    "a column that the run lacks": ({"colour": ["red", "blue"]}, "colour"),
    "a type that the samples do not have": ({"score": ["high", "low"]}, "score"),
}


@pytest.mark.parametrize("name", BAD)
def test_rows_that_do_not_go_with_the_run_are_refused(
    name: str, first: Run, tmp_path: Path
) -> None:
    values, wrong = BAD[name]
    columns = {key: value for key, value in values.items() if key != "numbers"}
    numbers = values.get("numbers", range(5, 7))
    base = {"id": [f"cat-{n}" for n in numbers], "images": [1, 1], "score": [0.5, 1.5]}
    more = write_prompts(tmp_path / "b.parquet", ["a fox", "a hen"], **base | columns)
    with pytest.raises(ManifestError, match=wrong):
        extend(first, [str(more)], UNKNOWN)
    assert first.directory.complete()
    assert not list(first.directory.inner.glob("manifest-*"))


def test_a_run_is_extended_when_it_is_complete_and_the_same_again_goes_on(
    first: Run, tmp_path: Path
) -> None:
    more = table(tmp_path / "b.parquet", range(5, 12))
    extend(first, [str(more)], UNKNOWN)
    with pytest.raises(OutputError, match="another command has just begun generation 1"):
        begin_further(first, [str(more)])
    same, told = extend(reopened(first), [str(more)], UNKNOWN)
    assert told == "Generation 1, with these rows, goes on."
    assert same.plan.last_generation == 1
    other = table(tmp_path / "c.parquet", range(20, 22))
    with pytest.raises(InputError, match="what is planned comes first"):
        extend(same, [str(other)], UNKNOWN)
    with pytest.raises(InputError, match="what is planned comes first"):
        retry_failed(same)


def test_the_same_rows_are_not_appended_twice(first: Run, tmp_path: Path) -> None:
    """Rows without ids would be accepted, and their pictures made and paid for once more."""
    more = write_prompts(tmp_path / "b.parquet", ["a fox"], id=[None], images=[1], score=[0.5])
    worked(extend(first, [str(more)], UNKNOWN)[0])
    same, told = extend(reopened(first), [str(more)], UNKNOWN)
    assert told == "Generation 1 has appended these rows already: nothing is left to do."
    assert look(same) == ("complete", 10, 0, 0)
    fsspec.filesystem("memory").pipe("/again/b.parquet", more.read_bytes())
    with pytest.raises(InputError, match="generation 1 has appended these rows already"):
        extend(same, ["memory://again/b.parquet"], UNKNOWN)
    assert not list(first.directory.inner.glob("manifest-0002*"))


def test_rows_whose_plan_has_its_name_stay_although_the_command_fails(
    first: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C, or a disk that cannot sync a folder, comes between the plan's link and its end."""
    more = tmp_path / "b.jsonl"
    more.write_text('{"prompt": "a fox", "id": "x", "images": 2, "score": 1.5}\n')
    sync = durable.sync_folder

    def interrupted(folder: Path) -> None:
        if first.directory.generation(1).exists():
            raise KeyboardInterrupt
        sync(folder)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "sync_folder", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extend(first, [str(more)], UNKNOWN)
    again, told = extend(reopened(first), [str(more)], UNKNOWN)
    assert told == "Generation 1, with these rows, goes on."
    assert look(worked(again)) == ("complete", 11, 0, 0)
    assert problems(first) == []


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        ({"shapes": []}, "its sizes do not have 15 pictures together"),
        ({"shards": [[10, 15, 5, 0]]}, "its pictures do not follow those that are planned"),
        ({"shards": [[9, 15, 5, 1]]}, "its pictures do not follow those that are planned"),
        ({"shards": [[9, 8, 5, 0], [17, 7, 5, 2]]}, "a shard begins in row 5 and cannot end"),
    ],
)
def test_an_extension_that_does_not_fit_is_refused(
    first: Run, tmp_path: Path, values: dict[str, object], wrong: str
) -> None:
    extend(first, [str(table(tmp_path / "b.parquet", range(5, 12)))], UNKNOWN)
    rewrite(first.directory.generation(1), **values)
    with pytest.raises(DamagedRun, match=wrong):
        load_plan(first.directory)


def test_verify_cuts_appended_rows_again(first: Run, tmp_path: Path) -> None:
    worked(extend(first, [str(table(tmp_path / "b.parquet", range(5, 12)))], UNKNOWN)[0])
    rewrite(first.directory.generation(1), shards=[[9, 4, 5, 0], [13, 4, 6, 2], [17, 7, 8, 1]])
    assert any("shard 4 is planned as 4 pictures" in one for one in problems(first))
