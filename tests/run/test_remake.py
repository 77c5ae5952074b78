"""Pictures are made once more: the later ones count, the earlier samples stay in their tars."""

import hashlib
import json
import tarfile
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from batchgen import attach
from batchgen.dataset import contact_sheet
from batchgen.errors import InputError
from batchgen.generations import remake, retry_failed
from batchgen.manifest import another_seed
from batchgen.run.run import Run
from batchgen.shard.tally import count_pictures
from batchgen.view.status import read_status
from tests.dataset.report.test_numbers import check_figures, report
from tests.run.test_further import reopened
from tests.run.test_generations import files, look, problems
from tests.support.specimens import Mended, copied, planned, worked

PROMPTS = [f"a cat {n}" for n in range(9)] + ["RAISE"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return worked(planned(tmp_path_factory.mktemp("made"), PROMPTS))


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Run:
    return copied(made, tmp_path)


def seeds(run: Run) -> list[int]:
    found: list[int] = attach(run.directory.root).records(["seed"])["seed"].to_pylist()
    return found


def test_remade_pictures_have_other_seeds_and_count_in_place_of_the_earlier_ones(run: Run) -> None:
    before, old = files(run), seeds(run)
    again, told = remake(run, ["000000002,3", "8"])
    assert told == "Generation 1: 3 pictures in 1 shard."
    assert look(run) == ("stalled", 6, 1, 3)
    worked(again)
    assert look(run) == ("complete", 9, 1, 0)
    assert before.items() < files(run).items()
    assert problems(run) == []
    new = seeds(run)
    assert [key for key in range(10) if new[key] != old[key]] == [2, 3, 8]
    assert [new[key] for key in (2, 3, 8)] == [another_seed(old[key], 1) for key in (2, 3, 8)]
    counts = count_pictures(run.directory)
    assert (counts.ok, counts.failed, counts.again) == (9, 1, 3)
    told = (run.directory.root / "README.md").read_text()
    assert "3 pictures were made again. The earlier samples are still in the tars" in told


def test_the_card_s_query_finds_every_picture_once_where_it_counts(run: Run) -> None:
    worked(remake(run, ["2,3,8"])[0])
    card = (run.directory.root / "README.md").read_text()
    query = card.split("```sql\nSELECT key, tar")[1].split("```")[0]
    with duckdb.connect(config={"file_search_path": str(run.directory.root)}) as database:
        rows = database.sql(f"SELECT key, tar{query}").fetchall()
    records = attach(run.directory.root).records(["key", "tar", "outcome"]).to_pylist()
    assert sorted(rows) == [(r["key"], r["tar"]) for r in records if r["outcome"] == "ok"]


def test_a_tar_keeps_what_counts_no_more_and_the_contact_sheet_leaves_it_out(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(
        contact_sheet.textwrap, "wrap", lambda prompt, *_, **__: shown.append(prompt) or [prompt]
    )
    worked(remake(run, ["0,1"])[0])
    assert shown == [*(f"a cat {n}" for n in range(2, 9)), "a cat 0", "a cat 1"]
    with tarfile.open(run.directory.data(0)) as tar:
        keys = {name.partition(".")[0] for name in tar.getnames()}
    assert keys == {f"{key:09d}" for key in range(4)}


def test_the_same_seeds_give_the_same_pictures(run: Run) -> None:
    worked(remake(run, ["0,1,2,3"], same_seeds=True)[0])
    one, other = run.directory.data(0), run.directory.data(3)
    assert hashlib.sha256(one.read_bytes()).digest() == hashlib.sha256(other.read_bytes()).digest()


def test_seeds_once_changed_stay_until_they_are_changed_again(run: Run) -> None:
    old = seeds(run)
    worked(remake(run, ["2,9"])[0])  # 9 fails again
    worked(retry_failed(reopened(run))[0], Mended())
    assert look(run) == ("complete", 10, 0, 0)
    expected = {2: another_seed(old[2], 1), 9: another_seed(old[9], 1)}
    assert {key: seeds(run)[key] for key in (2, 9)} == expected
    worked(remake(reopened(run), ["2"], same_seeds=True)[0])
    assert seeds(run)[2] == expected[2]
    worked(remake(reopened(run), ["2"])[0])
    assert seeds(run)[2] == another_seed(old[2], 4)
    assert problems(run) == []


def test_the_report_counts_each_picture_once_and_all_work(run: Run) -> None:
    worked(remake(run, ["2,3,8"])[0])
    check_figures(report(run := reopened(run)))
    told = json.loads((run.directory.root / "statistics.json").read_bytes())
    assert (told["ok"], told["failed"], told["again"]) == (9, 1, 3)
    assert pq.read_table(run.directory.root / "metadata").num_rows == 13


def test_a_report_in_the_middle_leaves_out_what_is_being_remade(run: Run) -> None:
    again, _ = remake(run, ["2,3,8"])
    check_figures(report(again))
    assert "3 pictures are pending" in (run.directory.root / "report.html").read_text()


def test_the_pace_counts_what_was_made_and_not_what_counts(run: Run) -> None:
    before = read_status(run.directory).pictures_per_device_hour
    worked(remake(run, [",".join(map(str, range(9)))])[0])
    assert read_status(run.directory).pictures_per_device_hour == pytest.approx(before, rel=0.2)


def test_keys_are_read_from_a_file(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_text(f"000000003\n\n000000001 {'0' * 30}1\n")
    again, _ = remake(run, [str(file), ",".join(["8"] * 999)])
    assert again.plan.later[0].pictures == 3


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ("000000010", "000000010: this run has no picture with this key. What it has: batchgen"),
        ("no-such-file", "no-such-file: neither a key nor a file with keys"),
        ("-1", "-1: neither a key"),
        ("9" * 30, "this run has no picture with this key"),
        ("1" * 5000, "this run has no picture with this key"),
        ("1" + "0" * 20 + "1", "this run has no picture with this key"),
        ("", "no keys were given"),
        (",", "no keys were given"),
    ],
)
def test_what_is_no_key_of_the_run_is_refused(run: Run, given: str, wrong: str) -> None:
    with pytest.raises(InputError, match=wrong):
        remake(run, [given])
    assert run.directory.complete()


def test_the_same_again_goes_on_and_another_is_refused(run: Run) -> None:
    remake(run, ["2"])
    same, told = remake(reopened(run), ["2"])
    assert told == "Generation 1, which makes these pictures again, goes on."
    with pytest.raises(InputError, match="what is planned comes first"):
        remake(same, ["3"])
    with pytest.raises(InputError, match="what is planned comes first"):
        remake(same, ["2"], same_seeds=True)
