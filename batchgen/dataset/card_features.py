"""The types of samples, as the dataset card states them for Hugging Face's loader.

Without them the loader infers types from the first five samples, and fails at a later one where
those had only nulls or empty arrays.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.manifest import JsonType, json_type, plain
from batchgen.run import Run
from batchgen.shard import committed_shards

# A feature in YAML: its name, and `dtype`, `list` or `struct`.
Feature = dict[str, Any]

# What each KEY.json has (worker/samples.py), but for the manifest's other columns.
_JSON = {
    **dict.fromkeys(("key", "id", "prompt", "negative_prompt"), "string"),
    **dict.fromkeys(("row", "image", "seed", "width", "height", "steps"), "int64"),
    **dict.fromkeys(("guidance", "true_cfg"), "float64"),
}
_DTYPES: dict[JsonType, str] = {
    "boolean": "bool",
    "integer": "int64",
    "number": "float64",
    "string": "string",
    "json": "string",
}


def sample_features(run: Run) -> list[Feature]:
    """The features of a complete run's samples; none for older runs, whose loaders infer them."""
    plan = run.plan
    if plan.is_older:
        return []
    fields: list[Feature] = [{"name": name, "dtype": dtype} for name, dtype in _JSON.items()]
    if plan.json_types:
        # All shards' records have the same types.
        first = run.directory.metadata(min(committed_shards(run.directory)))
        extra = pq.read_schema(first).field("extra").type
        own = [_feature(field, plan.json_types[field.name]) for field in extra]
        fields.append({"name": "extra", "struct": own})
    return [
        {"name": run.job.output.format, "dtype": "image"},
        {"name": "txt", "dtype": "string"},
        {"name": "json", "struct": fields},
        {"name": "__key__", "dtype": "string"},
        {"name": "__url__", "dtype": "string"},
    ]


def _feature(column: pa.Field, type_: JsonType) -> Feature:
    """The feature of a travelling column."""
    # Plans from before there were arrays have text in their place.
    dtype = _DTYPES.get(type_)
    return {"name": column.name, **({"dtype": dtype} if dtype else _shape(column.type))}


def _shape(type_: pa.DataType) -> Feature:
    """What a value of an Arrow type is in JSON, without a name."""
    if dtype := _DTYPES.get(json_type(type_)):
        return {"dtype": dtype}
    found = plain(type_)
    if pa.types.is_struct(found):
        return {"struct": [{"name": field.name, **_shape(field.type)} for field in found]}
    if pa.types.is_map(found):
        parts = {"key": found.key_type, "value": found.item_type}
        return {"list": [{"name": name, **_shape(part)} for name, part in parts.items()]}
    item = _shape(found.value_type)
    return {"list": item.get("dtype") or item.get("struct") or item}
