"""A record survives as JSON and as Parquet, beside the travelling columns with their types."""

import dataclasses
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import DamagedRun
from batchgen.shard.records import SCHEMA, Record, identity_of, parse, to_table
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


def test_the_schema_has_every_field_once_typed_and_null_only_for_what_was_not_measured() -> None:
    assert SCHEMA.names == [field.name for field in dataclasses.fields(Record)]
    assert [field.name for field in SCHEMA if field.nullable] == ["psnr", "ssim", "products"]
    types = {name: str(SCHEMA.field(name).type) for name in ("key", "guidance", "outcome", "path")}
    assert types == {"key": "int64", "guidance": "double", "outcome": "string", "path": "string"}
    assert SCHEMA.field("finished_at").type == pa.float64()


def test_a_record_shares_with_its_picture_all_but_the_travelling_columns() -> None:
    one = picture(5, extra='{"a":1}')
    assert {name: getattr(record(of=one), name) for name in identity_of(one)} == identity_of(one)
    assert set(dataclasses.asdict(one)) - set(identity_of(one)) == {"extra"}


def test_a_table_holds_the_records_in_order() -> None:
    records = [record(2, guidance=3), failure(0), record(1)]
    table = to_table(records, NOTHING)
    assert table.schema.equals(SCHEMA)
    assert [Record(**row) for row in table.to_pylist()] == records


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
    assert table["key"].to_pylist() == [4]
    assert table["extra"].to_pylist() == [{"key": "k", "seed_2": 1}]
