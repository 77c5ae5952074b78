"""Published records as batchgen 0.2 and older wrote them, read as if they had today's columns.

Then keys were numbers, times of a stage were the group's and had no name that said so, moments were
seconds since the epoch, and no record named its tar. A run keeps its columns to its end, so that
all of its files can be read as one table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from batchgen.settings import prompt_place
from batchgen.shard.records import Record

_WHOLE, _NUMBER, _TEXT = pa.int64(), pa.float64(), pa.string()
_TYPES: Mapping[str, pa.DataType] = {
    **dict.fromkeys(("key", "row", "image"), _WHOLE),
    "id": _TEXT,
    **dict.fromkeys(("generation", "shard"), _WHOLE),
    **dict.fromkeys(("prompt", "negative_prompt"), _TEXT),
    **dict.fromkeys(("seed", "width", "height", "steps"), _WHOLE),
    **dict.fromkeys(("guidance", "true_cfg"), _NUMBER),
    **dict.fromkeys(("outcome", "cause", "error", "path"), _TEXT),
    **dict.fromkeys(("group_size", "image_bytes"), _WHOLE),
    **dict.fromkeys(("text_s", "denoise_s", "decode_s", "queue_s"), _NUMBER),
    **dict.fromkeys(("image_encode_s", "total_s"), _NUMBER),
    **dict.fromkeys(("peak_bytes", "graphs", "graph_breaks", "recompilations"), _WHOLE),
    **dict.fromkeys(("code", "skipped"), _TEXT),
    "distances": pa.list_(_NUMBER),
    "host": _TEXT,
    **dict.fromkeys(("worker", "attempt"), _WHOLE),
    "finished_at": _NUMBER,
    **dict.fromkeys(("identity", "audit", "audit_error"), _TEXT),
    **dict.fromkeys(("psnr", "ssim", "audit_s"), _NUMBER),
    "products": pa.list_(_NUMBER),
}
_NULLABLE = ("psnr", "ssim", "products")
_SCHEMA = pa.schema(
    [pa.field(name, kind, nullable=name in _NULLABLE) for name, kind in _TYPES.items()]
)

Make = Callable[[pa.Table], pa.ChunkedArray]


def _key(table: pa.Table) -> pa.ChunkedArray:
    return pc.utf8_lpad(table["key"].cast(_TEXT), 9, "0")


def _tar(table: pa.Table) -> pa.ChunkedArray:
    shards = pc.utf8_lpad(table["shard"].cast(_TEXT), 6, "0")
    names = pc.binary_join_element_wise("data/", shards, ".tar", "")
    return pc.if_else(pc.equal(table["outcome"], "ok"), names, pa.scalar(None, _TEXT))


def _device_s(table: pa.Table) -> pa.ChunkedArray:
    group_s = pc.add(pc.add(table["text_s"], table["denoise_s"]), table["decode_s"])
    return pc.divide(group_s, table["group_size"].cast(_NUMBER))


def _finished_at(table: pa.Table) -> pa.ChunkedArray:
    microseconds = pc.round(pc.multiply(table["finished_at"], 1e6)).cast(_WHOLE)
    return microseconds.cast(pa.timestamp("us", "UTC"))


def _prompt_place(table: pa.Table) -> pa.ChunkedArray:
    return pa.chunked_array([map(prompt_place, table["prompt"].to_pylist())], _NUMBER)


def _of(name: str) -> Make:
    return lambda table: table[name]


# Today's column → the columns of then from which it follows, and how.
_NEWER: Mapping[str, tuple[tuple[str, ...], Make]] = {
    "key": (("key",), _key),
    "index": (("key",), _of("key")),
    "tar": (("shard", "outcome"), _tar),
    "prompt_place": (("prompt",), _prompt_place),
    "device_s": (("text_s", "denoise_s", "decode_s", "group_size"), _device_s),
    **{f"group_{name}": ((name,), _of(name)) for name in ("text_s", "denoise_s", "decode_s")},
    "finished_at": (("finished_at",), _finished_at),
}


def is_older(schema: pa.Schema) -> bool:
    """Whether batchgen 0.2 or older has planned the run of these records."""
    return bool(pa.types.is_integer(schema.field("key").type))


def needed(columns: Sequence[str]) -> list[str]:
    """The columns of then from which these of today follow."""
    found = [name for column in columns for name in _NEWER.get(column, ((column,),))[0]]
    return list(dict.fromkeys(found))


def renewed(table: pa.Table, schema: pa.Schema, columns: Sequence[str] | None) -> pa.Table:
    """The same records with today's columns; those that cannot be known are left out.

    :param table: with all that `needed` names.
    :param schema: today's columns.
    :param columns: which of them, in this order; None: all, and `extra`.
    """
    names, arrays = [], []
    for name in columns or [*schema.names, "extra"]:
        sources, make = _NEWER.get(name, ((name,), _of(name)))
        if set(sources) <= set(table.column_names):
            names.append(name)
            arrays.append(make(table))
    return pa.table(dict(zip(names, arrays, strict=True)))


def older_table(records: Sequence[Record]) -> pa.Table:
    """Records as Arrow rows with the columns of then."""
    columns = {name: [getattr(record, name) for record in records] for name in _TYPES}
    return pa.table(columns, schema=_SCHEMA)
