"""The per-picture record: identity, outcome, times. One row of `metadata/NNNNNN.parquet` each.

Written as JSON lines while a shard runs and as Parquet when it is published, the row's travelling columns
beside it, typed, in the struct `extra`. Every statistic batchgen shows can be recomputed from these rows (P8).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from batchgen.errors import DamagedRun
from batchgen.manifest import Picture

Outcome = Literal["ok", "failed"]
Route = Literal["normal", "retry", "oom_split", "solo"]


@dataclass(frozen=True, slots=True)
class Record:
    """What became of one planned picture. Times are seconds; those of a stage are the whole group's:
    divide by `group_size` for the picture's share.
    """

    key: int
    row: int
    image: int
    id: str
    generation: int
    shard: int
    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    steps: int
    guidance: float
    true_cfg: float
    outcome: Outcome
    cause: str  # "" if ok; else a short class: "not finite", "one colour", "exception", "out of memory", "killed its worker"
    error: str  # "" if ok; else the message
    path: Route  # "normal"; "retry": alone, after its group failed; "oom_split": in a halved group; "solo": alone, after two deaths
    group_size: int
    image_bytes: int
    text_s: float
    denoise_s: float
    decode_s: float
    queue_s: float  # between denoising and decoding
    image_encode_s: float  # this picture's own
    total_s: float  # from the group's begin until it was handed to the disk
    peak_bytes: int
    graphs: int  # compiled graphs of the process; 0: nothing was compiled
    graph_breaks: int
    recompilations: int  # asked for after the warm-up, and refused
    code: str  # SHA-256 of the compiled code's archive; "" if nothing was compiled
    skipped: str  # a letter a step: 1 skipped by the cache, 0 computed; "" without a cache
    distances: list[float | None]  # what the cache measured at each step; null where it did not
    host: str
    worker: int
    attempt: int
    finished_at: float  # seconds since the epoch
    identity: str  # the engine's device and numerics

    def line(self) -> bytes:
        """One JSON line."""
        return (
            json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False).encode()
            + b"\n"
        )


def identity_of(picture: Picture) -> dict[str, Any]:
    """The fields a record shares with its picture."""
    fields = dataclasses.asdict(picture)
    del fields["extra"]
    return fields


_ARROW = {
    "int": pa.int64(),
    "str": pa.string(),
    "float": pa.float64(),
    "Outcome": pa.string(),
    "Route": pa.string(),
    "list[float | None]": pa.list_(pa.float64()),
}
SCHEMA = pa.schema(
    [
        pa.field(field.name, _ARROW[str(field.type)], nullable=False)
        for field in dataclasses.fields(Record)
    ]
)


def parse(lines: bytes, where: str) -> list[Record]:
    """Records of JSON lines this version wrote.

    :raises DamagedRun: a line is none.
    """
    try:
        return [Record(**json.loads(line)) for line in lines.splitlines()]
    except (ValueError, TypeError) as error:
        raise DamagedRun(f"{where}: not batchgen's records: {error}") from None


def to_table(records: Sequence[Record], extras: pa.Table) -> pa.Table:
    """Records as Arrow rows, with the travelling columns as the struct column `extra` (absent where there are none).

    :param extras: one row a record, in the same order.
    """
    table = pa.table(
        {name: [getattr(record, name) for record in records] for name in SCHEMA.names},
        schema=SCHEMA,
    )
    if not extras.num_columns:
        return table
    struct = pa.StructArray.from_arrays(
        [column.combine_chunks() for column in extras.columns], fields=list(extras.schema)
    )
    return table.append_column("extra", struct)
