"""Splits are told on the card, may change later, and are written apart by an export."""

import json
import tarfile
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from batchgen.dataset.chosen import count_splits
from batchgen.dataset.export import export_run
from batchgen.dataset.finalize import finalize_run
from batchgen.dataset.loader import dataset
from batchgen.dataset.splits import bounds_of, published_splits, splits_of
from batchgen.errors import DamagedRun, InputError, OutputError
from batchgen.run import Run, open_run
from batchgen.settings import Splits
from tests.support.rehearsal import ask, records
from tests.support.specimens import planned, worked

PROMPTS = [f"a cat {n // 2}" for n in range(24)]
PROMPTS[3], PROMPTS[8:16] = "NAN", ["FLAT"] * 8
SPLITS = ("splits.validation=0.3", "splits.test=0.2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """15 good pictures in two tars, with pictures of all splits in both."""
    folder = tmp_path_factory.mktemp("splits")
    return worked(planned(folder, PROMPTS, "shards.pictures=8", *SPLITS, score=range(24)))


@pytest.fixture(scope="module")
def exported(run: Run) -> Path:
    folder = run.directory.root.with_name("test-copy")
    export_run(run, folder)
    return folder


def card(root: Path) -> tuple[Any, str]:
    _, matter, text = (root / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(matter), text


def of_splits(root: Path) -> dict[str, set[str]]:
    names = ("train", "validation", "test")
    return {name: {one["__key__"] for one in dataset(root, split=name)} for name in names}


def test_the_card_has_one_split_that_nobody_takes_for_training(run: Run) -> None:
    matter, text = card(run.directory.root)
    files = [{"split": "pictures", "path": "data/*.tar"}]
    assert matter["configs"] == [{"config_name": "default", "data_files": files}]
    assert 'load_dataset("run", split="pictures")' in text
    for split, keys in of_splits(run.directory.root).items():
        assert f"| `{split}` | {len(keys)} |" in text
    assert "| 0.3 ≤ `prompt_place` < 0.8 |" in text
    assert 'batchgen.dataset("run", split="test").to_tuple("jpg", "txt")' in text


def test_without_splits_the_card_says_nothing_of_them(tmp_path: Path) -> None:
    root = worked(planned(tmp_path, PROMPTS[:2])).directory.root
    assert "Splits" not in card(root)[1]
    assert published_splits(root) == Splits()
    assert [bounds_of(root, split) for split in (None, "train", "all")] == [(0.0, 1.0)] * 3


def test_splits_change_at_a_resume_also_of_a_complete_run(tmp_path: Path) -> None:
    made = worked(planned(tmp_path, PROMPTS, *SPLITS))
    root, tars = made.directory.root, [*made.directory.root.glob("data/*.tar")]
    before = [tar.read_bytes() for tar in tars]
    again = open_run(root, ["splits.validation=0.6", "splits.test=0.0"])
    assert finalize_run(again)
    assert published_splits(root) == splits_of(root) == Splits(validation=0.6)
    assert json.loads((root / "statistics.json").read_text())["split_pictures"] == count_splits(
        root, Splits(validation=0.6)
    )
    assert "0.6 ≤ `prompt_place` < 1 |" in card(root)[1]
    assert [tar.read_bytes() for tar in tars] == before
    # A worker that begun before does not bring the old ones back.
    (root / "index.json").unlink()
    assert finalize_run(made)
    assert published_splits(root) == Splits(validation=0.6)


def test_a_published_dataset_without_its_run_has_the_same_splits(run: Run, tmp_path: Path) -> None:
    root, copy = run.directory.root, tmp_path / "downloaded"
    for path in (path for path in root.rglob("*") if path.is_file()):
        if ".batchgen" not in path.parts:
            (copy / path.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
            (copy / path.relative_to(root)).write_bytes(path.read_bytes())
    assert of_splits(copy) == of_splits(root)
    with pytest.raises(InputError, match="has splits, so name one"):
        dataset(copy)
    (copy / "statistics.json").write_text('{"splits": {"validation": 2}}')
    with pytest.raises(DamagedRun, match=r"statistics\.json: cannot be read\. Download it again"):
        dataset(copy)


def test_a_copy_has_tars_for_each_split_and_every_picture_once(run: Run, exported: Path) -> None:
    root = run.directory.root
    matter, text = card(exported)
    files = {one["split"]: one["path"] for one in matter["configs"][0]["data_files"]}
    assert [*files] == ["train", "validation", "test"]
    assert (matter["pretty_name"], "index.json" in text) == ("test-copy", False)
    there: dict[str, dict[str, bytes]] = {}
    for split, pattern in files.items():
        for path in sorted(exported.glob(pattern)):
            with tarfile.open(path) as tar:
                there.setdefault(split, {}).update(contents(tar))
    original: dict[str, bytes] = {}
    for path in sorted(root.glob("data/*.tar")):
        with tarfile.open(path) as tar:
            original |= contents(tar)
    assert {name: data for some in there.values() for name, data in some.items()} == original
    assert sum(map(len, there.values())) == len(original)
    assert {split: {name[:9] for name in some} for split, some in there.items()} == of_splits(root)


def contents(tar: tarfile.TarFile) -> dict[str, bytes]:
    members = [(member, tar.extractfile(member)) for member in tar]
    assert all((member.mode, member.mtime, member.uid) == (0o644, 0, 0) for member, _ in members)
    return {member.name: file.read() for member, file in members if file}


def test_the_records_of_a_copy_name_the_tars_of_the_copy(run: Run, exported: Path) -> None:
    assert of_splits(exported) == of_splits(run.directory.root)
    before, after = records(run.directory.root), records(exported)
    assert [one | {"tar": ""} for one in after] == [one | {"tar": ""} for one in before]
    for one in after:
        if one["tar"] is None:
            assert one["outcome"] == "failed"
            continue
        with tarfile.open(exported / one["tar"]) as tar:
            assert f"{one['key']}.jpg" in tar.getnames()


def test_no_name_of_a_copy_is_the_name_of_a_split(exported: Path) -> None:
    names = [part for path in exported.rglob("*") for part in path.relative_to(exported).parts]
    assert not {"train", "test", "validation", "valid", "dev", "eval"} & {
        word for name in names for word in name.replace("-", ".").split(".")
    }


def test_the_query_of_the_card_finds_each_picture_in_its_split(run: Run, exported: Path) -> None:
    for name, (low, high) in splits_of(exported).bounds().items():
        sql = f"""SELECT key FROM '{run.directory.root}/metadata/*.parquet'
            WHERE outcome = 'ok' AND prompt_place >= {low} AND prompt_place < {high}"""
        assert {key for (key,) in duckdb.sql(sql).fetchall()} == of_splits(exported)[name]


def test_a_copy_has_the_last_of_a_picture_that_was_made_again(run: Run, tmp_path: Path) -> None:
    made = worked(planned(tmp_path, PROMPTS[16:20]))
    root = made.directory.root
    table = pq.read_table(root / "metadata/000000.parquet")
    newer = table.set_column(table.column_names.index("generation"), "generation", [[1] * 4])
    tar = pc.if_else(pc.equal(table["index"], 2), None, "data/000001.tar")
    newer = newer.set_column(table.column_names.index("tar"), table.field("tar"), tar)
    pq.write_table(newer, root / "metadata/000001.parquet")
    (root / "data/000001.tar").write_bytes((root / "data/000000.tar").read_bytes())
    assert export_run(made, tmp_path / "copy") == {"train": 3}
    rows = records(tmp_path / "copy")
    assert [(one["generation"], one["tar"]) for one in rows] == [
        (1, None if one["index"] == 2 else "data/0/000000.tar") for one in rows
    ]
    assert len(rows) == 4


def test_the_folder_of_a_copy_may_be_the_current_one(
    run: Run, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export_run(run, Path())
    copied = {path.name for path in (tmp_path / "here").iterdir()}
    assert copied == {path.name for path in exported.iterdir()}
    assert card(tmp_path / "here")[0]["pretty_name"] == "here"


def test_a_copy_appears_whole_or_not_at_all(run: Run, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(OutputError, match="holds something; name a new or an empty folder"):
        export_run(run, tmp_path / "full")
    unfinished = planned(tmp_path, ["a cat"])
    with pytest.raises(InputError, match=r"not complete, .* First: batchgen resume"):
        export_run(unfinished, tmp_path / "copy")
    root = worked(unfinished).directory.root
    (root / "data/000000.tar").unlink()
    with pytest.raises(DamagedRun, match=r"000000\.tar: cannot be read"):
        export_run(unfinished, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_the_verb_says_what_it_made(run: Run, exported: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    told = ask("export", run.directory.root, tmp_path / "empty")
    counts = {split: len(keys) for split, keys in of_splits(exported).items()}
    assert told.code == 0
    assert all(f"{split}  {count} picture" in told.out for split, count in counts.items())
    assert (tmp_path / "empty" / "README.md").exists()
    assert ask("export", run.directory.root, tmp_path / "empty").code == 2


@pytest.mark.slow
def test_hugging_face_shows_the_splits_of_a_copy_and_one_split_of_the_run(
    run: Run, exported: Path, tmp_path: Path
) -> None:
    import datasets

    def load(folder: Path, **options: Any) -> Any:
        return datasets.load_dataset(str(folder), cache_dir=str(tmp_path), **options)

    expected = of_splits(exported)
    cached, streamed = load(exported), load(exported, streaming=True)
    for split, keys in expected.items():
        assert set(cached[split]["__key__"]) == keys
        assert {one["__key__"] for one in streamed[split]} == keys
    assert {name: len(split) for name, split in load(run.directory.root).items()} == {
        "pictures": sum(map(len, expected.values()))
    }
    with pytest.raises(ValueError, match="train"):
        load(run.directory.root, split="train")
