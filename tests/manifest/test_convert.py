"""CSV and JSONL become Parquet once; messages name the file the user wrote."""

import csv
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import ManifestError
from batchgen.manifest import extra_columns, find_files, read_rows
from batchgen.manifest.convert import to_parquet
from batchgen.manifest.problems import Problems
from tests.manifest.validation import all_pictures, validate

Convert = Callable[..., Path]


@pytest.fixture
def convert(tmp_path: Path) -> Convert:
    """Writes files, converts them and gives the Parquet file."""

    def run(**files: str | bytes) -> Path:
        paths = [tmp_path / name.replace("_", ".") for name in files]
        for path, text in zip(paths, files.values(), strict=True):
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        out = tmp_path / "out.parquet"
        validate(*find_files(paths), parquet=out, long_prompts="truncate")
        return out

    return run


def jsonl(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_csv_contract_columns_are_typed_and_others_stay_text(convert: Convert) -> None:
    out = convert(a_csv='prompt,seed,guidance,score,id\n"a, ""b""\nc", 7 ,1e1,007,x\nd,,,,\n')
    assert pq.read_table(out).to_pylist() == [
        {"prompt": 'a, "b"\nc', "seed": 7, "guidance": 10.0, "score": "007", "id": "x"},
        {"prompt": "d", "seed": None, "guidance": None, "score": None, "id": None},
    ]


def test_a_csv_column_that_turns_from_numbers_to_text_after_the_first_block_is_text(
    convert: Convert,
) -> None:
    rows = [("word " * 50, str(i)) for i in range(40_000)] + [("last", "n/a")]
    text = io.StringIO()
    csv.writer(text).writerows([("prompt", "score"), *rows])
    assert len(text.getvalue()) > 8 << 20
    scores = pq.read_table(convert(a_csv=text.getvalue()))["score"].to_pylist()
    assert scores == [score for _, score in rows]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "prompt,seed\na,1\nb,x\n",
            "row 1 of {file}, column seed: 'x'; expected an integer from 0 to 2^63-1",
        ),
        (
            "prompt,seed\na,1\nb,9223372036854775808\n",
            "row 1 of {file}, column seed: '9223372036854775808'; expected an integer",
        ),
        (
            "prompt,width\na,64\nb,64.5\n",
            "row 1 of {file}, column width: '64.5'; expected px, a multiple of 16",
        ),
        (
            "prompt,guidance\na,1\nb,high\n",
            "row 1 of {file}, column guidance: 'high'; expected a finite number",
        ),
        (b"prompt,topic\na,x\nb,\xff\n", "row 1 of {file}, column topic: is not valid UTF-8"),
        (b"prompt\na\n\xff\n", "row 1 of {file}, column prompt: is not valid UTF-8"),
        (
            "prompt,seed\na,1\nb,2,3\n",
            "row 1 of {file}: 3 fields in line 3, the header has 2: 'b,2,3'; quote ",
        ),
        (
            "text,seed\na,1\n",
            "{file}: no column prompt (string), the one that is required. Columns found: text,",
        ),
        ("prompt,prompt\na,1\n", "{file}, column prompt: stands twice"),
        ("prompt\n", "{file}: no rows"),
        ("präompt\n".encode("latin-1"), "{file}: the header is not UTF-8"),
    ],
)
def test_bad_csv_is_refused_by_file_row_column_and_value(
    convert: Convert, tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(ManifestError) as error:
        convert(a_csv=text)
    assert message.format(file=tmp_path / "a.csv") in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv"]


def test_csv_files_must_have_the_same_columns(convert: Convert, tmp_path: Path) -> None:
    message = rf"{tmp_path}/b.csv, column seed: missing, but {tmp_path}/a.csv has it"
    with pytest.raises(ManifestError, match=message):
        convert(a_csv="prompt,seed\na,1\n", b_csv="prompt\na\n")


def test_a_csv_with_a_byte_order_mark_is_read(convert: Convert) -> None:
    assert pq.read_table(convert(a_csv="\ufeffprompt\na\n")).to_pylist() == [{"prompt": "a"}]


def test_jsonl_columns_take_the_type_all_their_values_have(convert: Convert) -> None:
    first = {"prompt": "a", "seed": 1, "i": 1, "f": 1, "s": "x", "b": True, "n": None}
    first |= {"mixed": 1, "deep": {"k": [1]}}
    second = {"prompt": "b", "guidance": 2, "i": 2**60, "f": 0.5, "mixed": "x"}
    out = convert(
        a_jsonl=f"{jsonl(first)}\n{jsonl(second)}", b_jsonl=jsonl({"prompt": "c", "late": 1})
    )
    schema = pq.read_schema(out)
    types = {name: str(schema.field(name).type) for name in schema.names}
    assert types == {
        "prompt": "string",
        "seed": "int64",
        "guidance": "double",
        "i": "int64",
        "f": "double",
        "s": "string",
        "b": "bool",
        "mixed": "extension<arrow.json>",
        "deep": "extension<arrow.json>",
        "n": "null",
        "late": "int64",
    }
    assert pq.read_table(out).num_rows == 3


def test_nested_json_is_in_the_sample_as_itself(convert: Convert) -> None:
    rows = [{"prompt": "a", "deep": {"k": [1, None]}, "mixed": "x"}, {"prompt": "b", "mixed": 1}]
    out = convert(a_jsonl=jsonl(*rows))
    assert [p.extra for p in all_pictures(out)] == [
        '{"deep":{"k":[1,null]},"mixed":"x"}',
        '{"deep":null,"mixed":1}',
    ]
    stored = extra_columns(read_rows(validate(out).sources, 0, 2).travelling)
    assert str(stored.schema.field("deep").type) == "string"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            jsonl({"prompt": "a"}, {"prompt": 5}),
            "row 1 of {file}, column prompt: '5'; expected a text",
        ),
        (
            jsonl({"prompt": "a", "seed": "7"}),
            "row 0 of {file}, column seed: '\"7\"'; expected an integer",
        ),
        (
            jsonl({"prompt": "a", "seed": True}),
            "row 0 of {file}, column seed: 'true'; expected an integer",
        ),
        (
            jsonl({"prompt": "a", "seed": 2**63}),
            "row 0 of {file}, column seed: '9223372036854775808'; expected an integer",
        ),
        (
            jsonl({"prompt": "a", "steps": 4.5}),
            "row 0 of {file}, column steps: '4.5'; expected an integer",
        ),
        (jsonl({"prompt": "a", "guidance": 10**400}), "row 0 of {file}, column guidance: '1000"),
        (
            jsonl({"prompt": "\ud800"}),
            "row 0 of {file}, column prompt: '\"\\\\ud800\"'; expected a text",
        ),
        (
            jsonl({"prompt": "a", "topic": "\ud800"}),
            "row 0 of {file}, column topic: '\"\\\\ud800\"'; expected a text",
        ),
        (jsonl({"prompt": "a"}) + "[1]\n", "row 1 of {file}: not a JSON object"),
        (
            jsonl({"prompt": "a"}) + '{"prompt": \n',
            "row 1 of {file}: not a JSON object: Expecting value",
        ),
        (
            jsonl({"prompt": "a", "guidance": float("nan")}),
            "row 0 of {file}: not a JSON object: NaN is not JSON; write null",
        ),
        (b'{"prompt": "\xff"}\n', "row 0 of {file}: not a JSON object: not valid UTF-8"),
        (
            jsonl({"text": "a"}),
            "{file}: no column prompt (string), the one that is required. Columns found: text",
        ),
        ("\n\n", "{file}: no column prompt"),
    ],
)
def test_bad_jsonl_is_refused_by_file_row_column_and_value(
    convert: Convert, tmp_path: Path, text: str | bytes, message: str
) -> None:
    with pytest.raises(ManifestError) as error:
        convert(a_jsonl=text)
    assert message.format(file=tmp_path / "a.jsonl") in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl"]


def test_all_conversion_problems_are_counted(convert: Convert) -> None:
    with pytest.raises(ManifestError, match="30 problems in the manifest, the first 10 "):
        convert(a_csv="prompt,seed,steps\n" + "a,x,y\n" * 15)


def test_later_problems_name_the_row_of_the_converted_file(
    convert: Convert, tmp_path: Path
) -> None:
    with pytest.raises(ManifestError) as error:
        convert(a_csv="prompt,id\na,1\nb,2\n", b_csv="prompt,id\nc,3\n ,2\n")
    message = str(error.value)
    assert f"row 1 of {tmp_path}/b.csv, column prompt: holds only whitespace" in message
    same = f"row 1 of {tmp_path}/b.csv, column id: '2' is also the id of row 1 of {tmp_path}/a.csv"
    assert same in message
    assert "out.parquet" not in message


def test_the_files_that_were_converted_are_identified(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("prompt\na\nb\n")
    found = validate(file, parquet=tmp_path / "out.parquet")
    assert found.content == (hashlib.sha256(file.read_bytes()).hexdigest(),)
    assert [(source.path, source.rows) for source in found.sources] == [
        (str(tmp_path / "out.parquet"), 2)
    ]


def test_conversion_is_deterministic(convert: Convert) -> None:
    text = jsonl(*({"prompt": f"p{i}", "deep": {"b": i, "a": [i]}} for i in range(100)))
    first = convert(a_jsonl=text).read_bytes()
    assert convert(a_jsonl=text).read_bytes() == first


@pytest.mark.slow
def test_conversion_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 MB of CSV never take more than some 30 blocks in memory: pyarrow reads ahead."""
    monkeypatch.setattr("batchgen.manifest.csv_rows._BATCH_CHARACTERS", 1 << 20)
    file = tmp_path / "a.csv"
    with file.open("w") as stream:
        stream.write("prompt,seed\n")
        stream.writelines(f"{'word ' * 40}{i},{i}\n" for i in range(500_000))
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    try:
        to_parquet([file], tmp_path / "out.parquet", Problems())
    finally:
        pa.set_memory_pool(before)
    assert file.stat().st_size > 100e6
    assert pool.max_memory() < 60e6
