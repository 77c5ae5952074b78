"""Travelling columns have one type in the JSON of all samples, whatever a row holds."""

import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from batchgen.manifest import pictures, read_rows
from batchgen.settings import Sampling
from tests.manifest.validation import Parquet, validate

MOMENT = datetime(2024, 2, 29, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("values", "type_", "kind", "expected"),
    [
        ([1, 2], pa.int8(), "integer", [1, 2]),
        ([1, None], pa.int8(), "integer", [1, None]),
        ([1, 2**64 - 1], pa.uint64(), "json", ["1", str(2**64 - 1)]),
        ([True, False], pa.bool_(), "boolean", [True, False]),
        ([2.0, 0.5], pa.float32(), "number", [2.0, 0.5]),
        ([True, None], pa.bool_(), "boolean", [True, None]),
        ([2.0, float("nan")], pa.float64(), "number", [2.0, None]),
        ([2, None], pa.float64(), "number", [2.0, None]),
        ([2, 1500], pa.duration("ms"), "number", [0.002, 1.5]),
        (["a", None], pa.string(), "string", ["a", ""]),
        (["a", "a"], pa.dictionary(pa.int8(), pa.string()), "string", ["a", "a"]),
        ([None, None], pa.null(), "json", ["", ""]),
        ([MOMENT, None], pa.timestamp("s", "UTC"), "string", ["2024-02-29T12:00:00.000Z", ""]),
        ([[1], []], pa.list_(pa.int64()), "array", [[1], []]),
        (
            [["a"], None],
            pa.large_list(pa.dictionary(pa.int8(), pa.string())),
            "array",
            [["a"], None],
        ),
        ([[0.5, float("inf")], [None]], pa.list_(pa.float32(), -1), "array", [[0.5, None], [None]]),
        ([[], [None]], pa.list_(pa.null()), "json", ["[]", "[null]"]),
        ([[1], []], pa.list_(pa.uint64()), "json", ["[1]", "[]"]),
        ([{"a": 1}, None], pa.struct({"a": pa.int64()}), "object", [{"a": 1}, None]),
        (
            [[("a", [1.0])], []],
            pa.map_(pa.string(), pa.list_(pa.float64())),
            "array",
            [[{"key": "a", "value": [1.0]}], []],
        ),
    ],
)
def test_a_column_has_one_type(
    values: list[Any], type_: pa.DataType, kind: str, expected: list[Any], parquet: Parquet
) -> None:
    file = parquet(prompt=["a", "b"], value=pa.array(values, type_))
    valid = validate(file)
    assert valid.json_types == {"value": kind}
    made = pictures(
        read_rows(valid.sources, 0, 2),
        first_row=0,
        first_key=0,
        skip=0,
        count=2,
        sampling=Sampling(),
        json_types=valid.json_types,
    )
    assert [json.loads(one.extra)["value"] for one in made] == expected
