"""Plans and lists of generations that were changed or lost are refused, and told by `verify`."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.dataset import finalize_run
from batchgen.errors import DamagedRun, OutputError
from batchgen.generations import retry_failed
from batchgen.run.plan_files import load_plan
from batchgen.run.run import Run, open_run
from batchgen.shard.claims import Claim
from batchgen.view.status import read_status
from tests.run.test_generations import look, problems, rewrite
from tests.support.specimens import Mended, copied, worked


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Run:
    return copied(made, tmp_path)


def test_a_generation_that_others_may_write_is_refused(run: Run) -> None:
    retry_failed(run)
    assert run.directory.generation(1).stat().st_mode & 0o777 == 0o600
    run.directory.generation(1).chmod(0o622)
    with pytest.raises(OutputError, match=r"plan-0001.json: can be written by others"):
        open_run(run.directory.root)


def test_a_list_that_was_changed_is_refused_and_told_once(retried: Run) -> None:
    run = retried
    (path,) = run.directory.inner.glob("keys-0001.*")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.rename(path.with_name("kept"))
    path.write_bytes(content)
    elsewhere = run.directory.root.rename(run.directory.root.with_name("copied"))
    found = [f"{path.name}: not the list that was planned: its hash is not the planned one"]
    told = problems(replace(run, directory=type(run.directory)(elsewhere)))
    assert len(told) == 1
    assert found[0] in told[0]
    with pytest.raises(DamagedRun, match="not the list that was planned"):
        read_status(type(run.directory)(elsewhere))


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
    assert not finalize_run(mended)
    assert look(run) == ("stalled", 4, 4, 2)
    worked(mended)
    assert look(run) == ("complete", 6, 4, 0), "its failures count no more, this time too"
    assert problems(run) == []
    made = pq.read_table(run.directory.metadata(0))
    assert set(made["generation"].to_pylist()) == {0}
