"""Which files are a manifest, and which files are refused before a row is read."""

import os
import socket
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import ManifestError, PlanChanged
from batchgen.manifest import check_unchanged, find_files
from tests.manifest.validation import Parquet, all_pictures, refusal, validate


@pytest.fixture
def folder(parquet: Parquet, tmp_path: Path) -> Path:
    for name in ("b.parquet", "a.parquet", "_metadata.parquet", ".hidden.parquet"):
        parquet(name)
    (tmp_path / "README.md").write_text("not a manifest")
    return tmp_path


def names(files: list[Path]) -> list[str]:
    return [file.name for file in files]


def test_a_folder_gives_its_visible_manifest_files_sorted(folder: Path) -> None:
    assert names(find_files([folder])) == ["a.parquet", "b.parquet"]


def test_a_glob_gives_what_matches_sorted(folder: Path) -> None:
    assert names(find_files([f"{folder}/[ab]*.parquet"])) == ["a.parquet", "b.parquet"]


def test_the_order_of_rows_does_not_depend_on_the_command_line(folder: Path) -> None:
    given = [folder / "b.parquet", str(folder / "a.parquet")]
    assert names(find_files(given)) == ["a.parquet", "b.parquet"]


def test_a_name_with_glob_characters_may_name_a_file(parquet: Parquet) -> None:
    file = parquet("p[1].parquet")
    assert find_files([file]) == [file]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing.parquet", "missing.parquet: no such file or folder"),
        ("*.csv", r"\*.csv: no file matches this glob"),
        ("empty", "empty: no manifest files directly inside; a manifest is"),
        (
            "README.md",
            "README.md: unknown extension '.md'; a manifest is .parquet, .pq, .csv, .tsv",
        ),
        ("zero.parquet", r"zero.parquet: the file is empty \(0 bytes\)"),
    ],
)
def test_what_is_not_a_manifest_is_refused_by_name(folder: Path, path: str, message: str) -> None:
    (folder / "empty").mkdir()
    (folder / "zero.parquet").touch()
    with pytest.raises(ManifestError, match=message):
        find_files([folder / path])


def test_no_path_at_all_is_refused() -> None:
    with pytest.raises(ManifestError, match="no manifest given"):
        find_files([])


def test_a_file_given_twice_is_refused(folder: Path) -> None:
    with pytest.raises(ManifestError, match=r"a.parquet: given twice"):
        find_files([folder / "a.parquet", folder])


def test_kinds_do_not_mix(folder: Path) -> None:
    (folder / "c.csv").write_text("prompt\na\n")
    message = r"a.parquet and .*c.csv: files of one manifest must be of one kind"
    with pytest.raises(ManifestError, match=message):
        find_files([folder])


@pytest.mark.parametrize("kept", [3, 40, -1], ids=["header", "half", "all but a byte"])
def test_a_truncated_file_is_refused_by_name(parquet: Parquet, kept: int) -> None:
    file = parquet()
    file.write_bytes(file.read_bytes()[:kept])
    assert refusal(file).startswith(f"{file}: cannot be read as Parquet")


def test_an_empty_file_and_a_missing_one_are_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "p.parquet"
    assert refusal(file) == f"{file}: no such file"
    file.touch()
    assert refusal(file).startswith(f"{file}: is empty (0 bytes)")


def test_no_rows_in_any_file_is_refused(parquet: Parquet) -> None:
    none, some = parquet("a.parquet", prompt=pa.array([], pa.string())), parquet("b.parquet")
    assert refusal(none) == f"{none}: no rows; a manifest needs at least one prompt"
    assert validate(none, some).rows == 1


def test_a_corrupt_page_in_mid_stream_is_refused_with_its_place(parquet: Parquet) -> None:
    """Pages with a checksum are checked, so that damage is found that would decode."""
    options = {
        "row_group_size": 1000,
        "compression": "none",
        "use_dictionary": False,
        "write_page_checksum": True,
    }
    file = parquet(prompt=[f"prompt {i}" for i in range(3000)], options=options)
    damaged = bytearray(file.read_bytes())
    damaged[damaged.index(b"prompt 1500")] ^= 1
    file.write_bytes(damaged)
    message = refusal(file)
    assert f"{file}: corrupt data at or after row 1000" in message
    assert "write the file again" in message


def test_the_problems_before_a_corrupt_page_and_in_other_files_are_told_too(
    parquet: Parquet,
) -> None:
    one = parquet(
        "a.parquet",
        id=["x", "y"],
        steps=[0, 1],
        options={"compression": "none", "use_dictionary": False},
    )
    raw = bytearray(one.read_bytes())
    page = pq.ParquetFile(one).metadata.row_group(0).column(2).data_page_offset
    raw[page : page + 20] = b"\xff" * 20
    one.write_bytes(raw)
    two = parquet("b.parquet", id=["x", "x"], steps=[1, 0])
    message = refusal(one, two)
    assert message.startswith("3 problems")
    assert f"{one}: corrupt data" in message
    assert f"row 1 of {two}, column steps" in message
    assert f"row 1 of {two}, column id" in message


def test_unchanged_files_pass_even_with_another_time(parquet: Parquet) -> None:
    file = parquet()
    sources = validate(file).sources
    check_unchanged(sources)
    os.utime(file, (1, 1))
    check_unchanged(sources)


@pytest.mark.parametrize(
    "prompt", ["a green circle in the rain", "a red sphere"], ids=["size", "content"]
)
def test_a_changed_file_is_refused_by_name(parquet: Parquet, prompt: str) -> None:
    file = parquet(prompt=["a red circle"])
    sources = validate(file).sources
    parquet(prompt=[prompt])
    os.utime(file, (1, 1))
    with pytest.raises(PlanChanged, match=rf"{file}: the manifest changed since planning"):
        check_unchanged(sources)


def test_a_file_that_is_gone_is_refused_by_name(parquet: Parquet) -> None:
    file = parquet()
    sources = validate(file).sources
    file.unlink()
    with pytest.raises(PlanChanged, match=rf"{file}: .* cannot be read: No such file"):
        check_unchanged(sources)


@pytest.mark.parametrize(
    ("name", "what"), [("p.parquet", "named pipe"), ("p.csv", "named pipe"), ("p.txt", "socket")]
)
def test_what_is_no_regular_file_is_refused_by_name_and_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, what: str
) -> None:
    """A pipe without a writer would be waited for."""
    monkeypatch.chdir(tmp_path)
    if what == "socket":
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(name)
    else:
        os.mkfifo(name)
    for given in (name, "p*", tmp_path):
        with pytest.raises(ManifestError, match=rf"{name}: a {what}, .* write it to a file first"):
            find_files([given])


def test_a_device_is_refused_by_name() -> None:
    with pytest.raises(ManifestError, match="/dev/zero: a device, and a manifest is read"):
        find_files(["/dev/zero"])


@pytest.mark.parametrize("given", ["p.csv", "p*"])
def test_a_broken_link_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("p.csv").symlink_to("gone.csv")
    with pytest.raises(ManifestError, match=r"p.csv: a link to a file that is not there: gone"):
        find_files([given])


def test_a_file_given_twice_by_links_is_refused(folder: Path) -> None:
    (folder / "z.parquet").symlink_to("a.parquet")
    with pytest.raises(ManifestError, match=r"z.parquet: given twice"):
        find_files([folder])


@pytest.mark.parametrize("address", ["s3://bucket/p.parquet", "hf://datasets/a/b", "https://a/b"])
def test_an_address_is_refused(address: str) -> None:
    with pytest.raises(ManifestError, match="an address; download it first"):
        find_files([address])


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("my prompts.json", r"jq -c '.\[\]' '.*my prompts.json' > NAME.jsonl"),
        ("p.xlsx", "save it as CSV UTF-8"),
        ("p.csv.zst", "unzstd .*p.csv.zst"),
        ("p.parquet.gz", "gunzip --keep .*p.parquet.gz"),
        ("p.zip", "unzip .*p.zip"),
    ],
)
def test_other_files_that_people_have_are_refused_with_what_to_do(
    tmp_path: Path, name: str, remedy: str
) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(ManifestError, match=rf"unknown extension .*{remedy}"):
        find_files([tmp_path / name])


def test_nested_folders_are_named_with_the_glob_that_reads_them(tmp_path: Path) -> None:
    inner = tmp_path / "a b" / "data" / "train"
    inner.mkdir(parents=True)
    pq.write_table(pa.table({"prompt": ["x"]}), inner / "0.parquet")
    with pytest.raises(ManifestError, match=r"manifest files in its subfolders") as error:
        find_files([tmp_path / "a b"])
    every = str(tmp_path / "a b" / "**" / "*.parquet")
    assert str(error.value).endswith(f"give '{every}' for all of them")
    assert names(find_files([every])) == ["0.parquet"]


def test_a_folder_with_tables_directly_inside_and_deeper_is_no_guess(folder: Path) -> None:
    (folder / "old").mkdir()
    (folder / "old" / "c.parquet").write_bytes((folder / "a.parquet").read_bytes())
    with pytest.raises(ManifestError, match=r"or '?.*/\*.parquet'? for those directly inside"):
        find_files([folder])


def test_hidden_folders_are_not_looked_into(folder: Path) -> None:
    for name in (".cache", "_temporary"):
        (folder / name).mkdir()
        (folder / name / "c.parquet").write_bytes((folder / "a.parquet").read_bytes())
    assert names(find_files([folder])) == ["a.parquet", "b.parquet"]


def test_texts_beside_tables_are_notes(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    assert names(find_files([folder])) == ["a.parquet", "b.parquet"]


def test_a_folder_of_texts_is_a_manifest(tmp_path: Path) -> None:
    for name in ("2.txt", "1.txt"):
        (tmp_path / name).write_text(f"cat {name}\n")
    assert [p.prompt for p in all_pictures(*find_files([tmp_path]))] == ["cat 1.txt", "cat 2.txt"]


def test_a_glob_that_matches_only_folders_says_so(tmp_path: Path) -> None:
    (tmp_path / "spark.parquet").mkdir()
    with pytest.raises(ManifestError, match="matches only folders; give the files, for example"):
        find_files([f"{tmp_path}/*.parquet"])


def test_metadata_of_other_files_says_nothing_about_places(parquet: Parquet) -> None:
    """A manifest of an earlier batchgen told where its rows came from; others may say anything."""
    for told in (b'[["/etc/passwd", 1]]', b"[[1]]", b"\xff", b"[]"):
        table = pa.table({"prompt": ["a", ""]}).replace_schema_metadata({"batchgen.origins": told})
        file = parquet()
        pq.write_table(table, file)
        assert refusal(file).startswith(f"row 1 of {file}, column prompt: is empty")


@pytest.mark.slow
def test_every_damaged_byte_of_a_footer_is_refused_or_changes_no_number_of_rows(
    tmp_path: Path,
) -> None:
    """Rows that are announced and not there would be shards without an end."""
    file = tmp_path / "p.parquet"
    pq.write_table(pa.table({"prompt": ["a", "b", "c"]}), file, store_schema=False)
    whole = file.read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for at in range(footer, len(whole) - 8):
        damaged = bytearray(whole)
        damaged[at] ^= 6
        file.write_bytes(damaged)
        with suppress(ManifestError):
            assert len(all_pictures(file)) == validate(file).rows
