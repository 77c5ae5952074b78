"""Columns that travel along: typed for the metadata, one JSON object a row for the sample."""

import json
import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from batchgen.manifest import extra_columns, read_rows
from tests.manifest.validation import Parquet, all_pictures, validate

CONVERSIONS = [
    (pa.array([True, None]), True),
    (pa.array([2**64 - 1, None], pa.uint64()), 2**64 - 1),
    (pa.array([1.5, None], pa.float16()), 1.5),
    (pa.array([math.nan, None]), "NaN"),
    (pa.array([-math.inf, None], pa.float32()), "-Infinity"),
    (pa.array(["a\0🙂", None]), "a\0🙂"),
    (pa.array([Decimal("1.50"), None]), "1.50"),
    (pa.array([Decimal("0.0000000001"), None]), "0.0000000001"),
    (pa.array([1, None], pa.timestamp("ns")), "1970-01-01T00:00:00.000000001"),
    (
        pa.array(
            [datetime(2024, 2, 29, 12, tzinfo=UTC), None], pa.timestamp("ms", "Europe/Berlin")
        ),
        "2024-02-29T12:00:00.000Z",
    ),
    (pa.array([2**52, None], pa.timestamp("ms")), "144683-05-23T16:29:30.496"),
    (pa.array([-1, None], pa.date32()), "1969-12-31"),
    (pa.array([86_400_000, None], pa.date64()), "1970-01-02"),
    (pa.array([1500, None], pa.time32("ms")), "00:00:01.500"),
    (pa.array([1, None], pa.time64("ns")), "00:00:00.000000001"),
    (pa.array([timedelta(minutes=1, milliseconds=500), None]), 60.5),
    (pa.array([b"\xff\x00", None]), "/wA="),
    (pa.array([b"ab", None], pa.binary(2)), "YWI="),
    (pa.array([[1, None], None]), [1, None]),
    (pa.array([[1, 2], None], pa.list_(pa.int32(), 2)), [1, 2]),
    (pa.array([[[math.inf]], None]), [["Infinity"]]),
    (
        pa.array([{"b": b"\xff", "a": [datetime(2024, 1, 1)]}, None]),
        {"a": ["2024-01-01T00:00:00.000000"], "b": "/w=="},
    ),
    (pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int32())), [{"key": "k", "value": 1}]),
    (pa.array(["x", None]).dictionary_encode(), "x"),
    (pa.array(['{"b":[NaN],"a":1}', None], pa.json_()), {"a": 1, "b": ["NaN"]}),
    (pa.array(["not JSON", None], pa.json_()), "not JSON"),
    (pa.array(['"\\ud800"', None], pa.json_()), "\ud800"),
    (pa.nulls(2), None),
]


@pytest.mark.parametrize(
    ("values", "expected"), CONVERSIONS, ids=[str(values.type) for values, _ in CONVERSIONS]
)
def test_every_type_becomes_json_as_documented(
    parquet: Parquet, values: pa.Array, expected: Any
) -> None:
    made = all_pictures(parquet(value=values))
    assert json.loads(made[0].extra, parse_constant=pytest.fail) == {"value": expected}
    assert made[1].extra == '{"value":null}'
    for picture in made:
        picture.extra.encode()


def test_keys_are_sorted_and_names_are_free(parquet: Parquet) -> None:
    (made,) = all_pictures(parquet(**{"z": [1], "a.b": [2], "": [3], 'q"': [4], "Prompt": [5]}))
    assert made.extra == '{"":3,"Prompt":5,"a.b":2,"q\\"":4,"z":1}'


def test_without_travelling_columns_the_object_is_empty(parquet: Parquet) -> None:
    file = parquet(seed=[1])
    assert [picture.extra for picture in all_pictures(file)] == ["{}"]
    table = extra_columns(read_rows(validate(file).sources, 0, 1).travelling)
    assert (table.num_rows, table.num_columns) == (1, 0)


@pytest.mark.parametrize(
    "value",
    [{"a": 1, "never": None}, {"b": {"a": 1, "never": None}}, [None]],
    ids=["struct", "struct in a struct", "list"],
)
def test_parts_without_any_value_travel_along_from_the_middle_of_a_file(
    parquet: Parquet, value: Any
) -> None:
    """Arrow cannot cast slices of such columns, as those of the second shard."""
    file = parquet(value=[value] * 24)
    table = extra_columns(read_rows(validate(file).sources, 8, 8).travelling)
    assert table.take([7, 0]).to_pylist() == [{"value": value}] * 2


def test_travelling_columns_stay_typed_for_the_metadata(parquet: Parquet) -> None:
    columns = {
        "score": pa.array([0.5]),
        "when": pa.array([1], pa.timestamp("us")),
        "word": pa.array(["a"]).dictionary_encode(),
        "blob": pa.array([b"x"], pa.large_binary()),
        "any": pa.array(['{"a":1}'], pa.json_()),
    }
    table = extra_columns(read_rows(validate(parquet(**columns)).sources, 0, 1).travelling)
    types = [str(field.type) for field in table.schema]
    assert types == ["double", "timestamp[us]", "string", "binary", "string"]
    assert table.to_pylist()[0]["any"] == '{"a":1}'
