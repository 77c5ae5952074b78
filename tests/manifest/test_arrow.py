"""Arrow files, and folders that `datasets` saved, are read as they are."""

import json
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pytest

from batchgen.errors import ManifestError
from batchgen.manifest import find_files
from tests.manifest.validation import all_pictures, refusal


@pytest.fixture
def table() -> pa.Table:
    topics = pa.array(["x", "y"]).dictionary_encode()
    return pa.table({"prompt": ["a", "b"], "seed": [7.0, 8.0], "topic": topics})


def stream(path: Path, table: pa.Table) -> Path:
    with pa.ipc.new_stream(path, table.schema) as sink:
        sink.write_table(table)
    return path


def write_file(path: Path, table: pa.Table) -> Path:
    with pa.ipc.new_file(path, table.schema) as sink:
        sink.write_table(table)
    return path


def feather(path: Path, table: pa.Table) -> Path:
    pyarrow.feather.write_feather(table, path)
    return path


@pytest.mark.parametrize("save", [stream, write_file, feather])
@pytest.mark.parametrize("name", ["p.arrow", "p.feather", "p.ipc"])
def test_both_formats_are_read_under_every_name(
    tmp_path: Path, table: pa.Table, save: object, name: str
) -> None:
    made = all_pictures(save(tmp_path / name, table))
    assert [(p.prompt, p.seed, p.extra) for p in made] == [
        ("a", 7, '{"topic":"x"}'),
        ("b", 8, '{"topic":"y"}'),
    ]


@pytest.mark.parametrize("kept", [3, 40, 200, -30], ids=["magic", "begin", "schema", "end"])
@pytest.mark.parametrize("save", [stream, write_file])
def test_a_truncated_file_is_refused_by_name(
    tmp_path: Path, table: pa.Table, save: object, kept: int
) -> None:
    file = save(tmp_path / "p.arrow", table)
    file.write_bytes(file.read_bytes()[:kept])
    assert refusal(file).startswith(f"{file}: cannot be read as Arrow")


@pytest.mark.slow
def test_every_flipped_byte_is_read_or_refused(tmp_path: Path, table: pa.Table) -> None:
    """A wrong offset must not be followed out of the file's memory."""
    whole = write_file(tmp_path / "p.arrow", table).read_bytes()
    for at in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[at] ^= 0x55
        (tmp_path / "p.arrow").write_bytes(damaged)
        with suppress(ManifestError):
            all_pictures(tmp_path / "p.arrow")


def test_text_that_is_not_utf8_is_refused_with_its_place(tmp_path: Path) -> None:
    broken = pa.table({"prompt": pa.array([b"a", b"\xff"]).view(pa.string())})
    file = write_file(tmp_path / "p.arrow", broken)
    assert refusal(file).startswith(f"{file}: corrupt data, or text that is not UTF-8, at or after")


def test_a_type_that_parquet_cannot_hold_is_refused_by_column(tmp_path: Path) -> None:
    span = pa.array([(1, 2, 3)], pa.month_day_nano_interval())
    file = write_file(tmp_path / "p.arrow", pa.table({"prompt": ["a"], "span": span}))
    assert refusal(file).startswith(f"{file}, column span: Parquet cannot hold month_day_nano")


def test_files_must_agree_on_types_of_columns_that_are_read(tmp_path: Path) -> None:
    one = write_file(tmp_path / "1.arrow", pa.table({"prompt": ["a"], "seed": [1]}))
    two = write_file(tmp_path / "2.arrow", pa.table({"prompt": ["a"], "seed": [1.0]}))
    assert f"{two}, column seed: type double, but int64 in {one}" in refusal(one, two)
    none = write_file(tmp_path / "0.arrow", pa.table({"prompt": ["z"], "seed": pa.nulls(1)}))
    assert [p.prompt for p in all_pictures(none, one)] == ["z", "a"]


@pytest.fixture
def saved(tmp_path: Path, table: pa.Table) -> Path:
    """A folder as `datasets.save_to_disk` writes it, with a cache beside."""
    folder = tmp_path / "saved"
    folder.mkdir()
    parts = ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    for name, part in zip(parts, (table.slice(0, 1), table.slice(1)), strict=True):
        stream(folder / name, part)
    stream(folder / "cache-0123.arrow", table)
    listed = {"_data_files": [{"filename": name} for name in parts], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(listed))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def test_a_saved_dataset_gives_the_files_that_it_lists(saved: Path) -> None:
    assert [p.prompt for p in all_pictures(*find_files([saved]))] == ["a", "b"]


def test_a_dataset_of_several_splits_is_refused_by_their_names(saved: Path) -> None:
    (saved.parent / "dataset_dict.json").write_text("{}")
    with pytest.raises(ManifestError, match=r"several splits of a dataset; give one: .*/saved$"):
        find_files([saved.parent])


@pytest.mark.parametrize(
    "state", ["", "{}", "[]", '{"_data_files": [{"filename": "../p.arrow"}]}', "[" * 100_000]
)
def test_a_damaged_list_of_a_saved_dataset_is_refused(saved: Path, state: str) -> None:
    (saved / "state.json").write_text(state)
    with pytest.raises(ManifestError, match=r"state.json: (does not list|names)"):
        find_files([saved])
