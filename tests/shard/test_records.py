"""A record survives as JSON and as Parquet, beside the travelling columns with their types."""

import dataclasses
import io
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import DamagedRun
from batchgen.model import Ingredient
from batchgen.shard.columns import COLUMNS, SCHEMA
from batchgen.shard.metadata import read_metadata, stream_metadata, to_table
from batchgen.shard.records import Record, identity_of, parse
from tests.support.specimens import failure, picture, record

NOTHING = pa.table({})


def test_records_survive_being_written_as_lines() -> None:
    odd = picture(1, prompt='"\\\n\r\u2028\u0085 🐈', id="a\tb", seed=2**63 - 1)
    records = [record(of=odd), failure(2), record(3, total_s=1e-9, error="\x00")]
    lines = b"".join(one.line() for one in records)
    assert lines.count(b"\n") == 3
    assert parse(lines, "") == records


def test_no_lines_are_no_records() -> None:
    assert parse(b"", "") == []


@pytest.mark.parametrize(
    "damage",
    [
        b"{",
        b"\0" * 40 + b"\n",
        b"3\n",
        b"[]\n",
        b"{}\n",
        record().line()[:-2],
        record().line().replace(b'"key"', b'"kay"'),
        b"\xff\n",
    ],
)
def test_a_line_that_is_no_record_is_told_with_its_file(damage: bytes) -> None:
    with pytest.raises(DamagedRun, match=r"000003\.0001\.records: not batchgen's records"):
        parse(record().line() + damage, "000003.0001.records")


def test_a_record_from_before_there_were_audits_is_read() -> None:
    fields = json.loads(record().line())
    later = ("audit", "audit_error", "psnr", "ssim", "audit_s")
    old = json.dumps({name: value for name, value in fields.items() if name not in later})
    assert parse(old.encode(), "") == [record()]


def test_a_time_that_is_no_number_is_never_written() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        record(total_s=float("nan")).line()


def test_every_field_of_a_record_is_published_and_every_column_explained() -> None:
    fields = {field.name for field in dataclasses.fields(Record)}
    stages = {"text_s", "denoise_s", "decode_s"}
    new = {
        "index",
        "tar",
        "made_with",
        "prompt_place",
        "device_s",
        *(f"group_{name}" for name in stages),
    }
    assert set(SCHEMA.names) == fields - stages | new
    assert len(set(SCHEMA.names)) == len(SCHEMA.names)
    types = {name: str(SCHEMA.field(name).type) for name in ("key", "index", "finished_at")}
    assert types == {"key": "string", "index": "int64", "finished_at": "timestamp[us, tz=UTC]"}
    for column in COLUMNS:
        assert column.meaning.endswith((".", "otherwise."))
        told = SCHEMA.field(column.name).metadata[b"description"]
        assert told.decode() == column.meaning


def test_a_row_names_its_files_and_has_its_share_of_the_device() -> None:
    one = record(7, shard=3, group_size=4, text_s=1.0, denoise_s=6.0, decode_s=1.0)
    good, failed = to_table([one, failure(8)], NOTHING).to_pylist()
    assert (good["key"], good["index"], good["tar"]) == ("000000007", 7, "data/000003.tar")
    assert (good["device_s"], good["group_denoise_s"]) == (2.0, 6.0)
    assert failed["tar"] is None
    assert good["finished_at"] == datetime(1970, 1, 1, 0, 0, 1, 500_000, UTC)


# Columns of which those runs know nothing.
LATER = ["sha256", "phash", "made_with", "score", "label", "labels", "label_scores", "score_s"]


@pytest.mark.parametrize(
    "columns", [None, ["tar", "key", "device_s", "finished_at"], ["psnr"], ["sha256", "key"]]
)
def test_records_of_older_runs_are_read_as_if_they_had_the_columns_of_today(
    columns: list[str] | None, tmp_path: Path
) -> None:
    records = [record(12, shard=2, psnr=40.0, group_size=2), failure(13)]
    extras, path = pa.table({"score": [0.5, 1.5]}), tmp_path / "000002.parquet"
    pq.write_table(to_table(records, extras, older=True), path)
    assert pq.read_schema(path).field("key").type == pa.int64()
    expected = to_table(records, extras)
    asked = columns or expected.column_names
    expected = expected.select([name for name in asked if name not in LATER])
    (streamed,) = stream_metadata(path, columns)
    assert streamed.equals(expected)
    assert read_metadata(path, asked).equals(expected)
    (good,) = read_metadata(path, ["tar"], [("outcome", "=", "ok")])["tar"].to_pylist()
    assert good == "data/000002.tar"


def test_a_record_shares_with_its_picture_all_but_the_travelling_columns() -> None:
    one = picture(5, extra='{"a":1}')
    assert {name: getattr(record(of=one), name) for name in identity_of(one)} == identity_of(one)
    assert set(dataclasses.asdict(one)) - set(identity_of(one)) == {"extra"}


def test_a_table_holds_the_records_in_order() -> None:
    records = [record(2, guidance=3), failure(0), record(1)]
    table = to_table(records, NOTHING)
    assert table.schema.equals(SCHEMA)
    assert table["index"].to_pylist() == [2, 0, 1]
    assert table["guidance"].to_pylist() == [3.0, 3.5, 3.5]


def test_every_row_names_the_model_and_its_loras() -> None:
    model = Ingredient(kind="model", name="org/a", family="flux", digest="sha256:1", license="mit")
    lora = Ingredient(kind="LoRA", name="b", digest="sha256:2", strength=0.5)
    first, second = to_table([record(0), record(1)], NOTHING, made_with=(model, lora)).to_pylist()
    assert first["made_with"] == second["made_with"]
    assert [tuple(one.values()) for one in first["made_with"]] == [
        ("model", "org/a", "sha256:1", 1.0, "mit"),
        ("LoRA", "b", "sha256:2", 0.5, ""),
    ]
    assert to_table([record(0)], NOTHING)["made_with"].to_pylist() == [[]], "test cards"


def test_travelling_columns_keep_their_types_in_a_struct() -> None:
    extras = pa.table(
        {
            "score": pa.array([0.5, None], pa.float32()),
            "tags": pa.array([["a"], []], pa.list_(pa.string())),
            "rank": pa.chunked_array([[1], [2]], pa.int8()),
            "when": pa.array([0, None], pa.timestamp("us", "UTC")),
        }
    )
    sink = io.BytesIO()
    pq.write_table(to_table([record(0), record(1)], extras), sink)
    read = pq.read_table(sink)
    assert read.schema.field("extra").type == pa.struct(list(extras.schema))
    assert read["extra"].to_pylist() == extras.to_pylist()


def test_without_travelling_columns_there_is_no_struct() -> None:
    assert "extra" not in to_table([record()], NOTHING).schema.names


def test_a_travelling_column_may_have_the_name_of_a_field() -> None:
    table = to_table([record(4)], pa.table({"key": ["k"], "seed_2": [1]}))
    assert table["key"].to_pylist() == ["000000004"]
    assert table["extra"].to_pylist() == [{"key": "k", "seed_2": 1}]


def test_a_column_of_another_type_is_damage(tmp_path: Path) -> None:
    table = to_table([record()], NOTHING)
    at = table.schema.get_field_index("outcome")
    path = tmp_path / "metadata" / "000003.parquet"
    path.parent.mkdir()
    pq.write_table(table.set_column(at, "outcome", table["outcome"].cast(pa.binary())), path)
    for read in (lambda: read_metadata(path, ["key"]), lambda: list(stream_metadata(path))):
        with pytest.raises(DamagedRun, match="its column outcome is binary"):
            read()
