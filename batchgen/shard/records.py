"""The record of one picture: identity, outcome and times; a row of `metadata/NNNNNN.parquet`.

Records are JSON lines while a shard runs and Parquet rows when it is published. The manifest's
other columns stand beside them, typed, in the struct `extra`. Every statistic that batchgen shows
can be recomputed from these rows (P8).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.errors import DamagedRun, shell_command
from batchgen.manifest import Picture

# Records that are read at once.
ROWS = 16_384

Outcome = Literal["ok", "failed"]
# "normal": together with its group. "retry": alone, after its group failed. "oom_split": in a
# part of its group, which did not fit the device. "solo": alone, after two deaths.
Route = Literal["normal", "retry", "oom_split", "solo"]
# "": not audited. "measured": compared with what it is without the cache. "below": likewise, and
# below the `audit.min_psnr` that held then. "not measured": it was to be compared, and could not.
AuditOutcome = Literal["", "measured", "below", "not measured"]


@dataclass(frozen=True, slots=True)
class Record:
    """What became of one planned picture.

    Times are seconds. Those of a stage are the whole group's: divide by `group_size` for the
    picture's share.
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
    # Empty, or a class of failures: "not finite", "one colour", "exception", "out of memory" or
    # "killed its worker".
    cause: str
    # The message of a failure; empty otherwise.
    error: str
    path: Route
    group_size: int
    image_bytes: int
    text_s: float
    denoise_s: float
    decode_s: float
    # Time between denoising and decoding.
    queue_s: float
    # Encoding this picture's image.
    image_encode_s: float
    # From the begin of the group until it was handed to the disk.
    total_s: float
    peak_bytes: int
    # Compiled graphs of the process; 0 if nothing was compiled.
    graphs: int
    graph_breaks: int
    # Recompilations that were asked for after the warm-up, and refused.
    recompilations: int
    # SHA-256 of the compiled code's archive; empty if nothing was compiled.
    code: str
    # A letter a step: 1 for skipped by the cache, 0 for computed. Empty without a cache.
    skipped: str
    # What the cache measured at each step; null where it did not measure. first_block, teacache and
    # a replay with blocks: how far their signal had moved, at every step. Else at computed steps
    # after the first: the root mean square error of the velocity that was predicted for it, or,
    # with adacache, the velocity's relative change since the last computed step.
    distances: list[float | None]
    host: str
    worker: int
    attempt: int
    # Seconds since the epoch.
    finished_at: float
    # The engine's device and numerics.
    identity: str
    # Records of batchgen 0.2 and older have none of the following.
    audit: AuditOutcome = ""
    # Why it could not be measured; empty otherwise.
    audit_error: str = ""
    # Of the pixels before they were encoded, against the same picture without the cache: dB, 99 for
    # equal pictures; and the structural similarity, 1 for equal ones. Null if not measured.
    psnr: float | None = None
    ssim: float | None = None
    # The picture's share of the seconds that the device worked on its group's audit: they belong to
    # no other time of this record.
    audit_s: float = 0.0
    # With `cache.record`: the steps + 1 sigmas of the picture, and the inner products of its
    # velocities at steps (0, 0), (1, 0), (1, 1), (2, 0), …; null otherwise.
    products: list[float] | None = None

    @property
    def group_s(self) -> float:
        """Seconds that the device worked on the picture's group: text, denoising and decoding."""
        return self.text_s + self.denoise_s + self.decode_s

    def line(self) -> bytes:
        """The record as one JSON line."""
        text = json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False)
        return text.encode() + b"\n"


def identity_of(picture: Picture) -> dict[str, Any]:
    """The fields that a record shares with its picture."""
    fields = dataclasses.asdict(picture)
    del fields["extra"]
    return fields


_ARROW = {
    "int": pa.int64(),
    "str": pa.string(),
    "float": pa.float64(),
    "Outcome": pa.string(),
    "Route": pa.string(),
    "AuditOutcome": pa.string(),
    "float | None": pa.float64(),
    "list[float | None]": pa.list_(pa.float64()),
    "list[float] | None": pa.list_(pa.float64()),
}
_FIELDS = dataclasses.fields(Record)
SCHEMA = pa.schema(
    pa.field(one.name, _ARROW[str(one.type)], nullable=str(one.type).endswith("None"))
    for one in _FIELDS
)


def parse(lines: bytes, where: str) -> list[Record]:
    """The records of JSON lines that this version wrote.

    :param where: the file, for the message.
    :raises DamagedRun: a line is not a record.
    """
    try:
        return [Record(**json.loads(line)) for line in lines.splitlines()]
    except (ValueError, TypeError) as error:
        raise DamagedRun(f"{where}: not batchgen's records: {error}") from None


def read_metadata(
    path: Path, columns: Sequence[str], filters: Sequence[tuple[str, str, str]] | None = None
) -> pa.Table:
    """Columns of published records.

    :param filters: as `pyarrow.parquet.read_table` takes them.
    :raises DamagedRun: the file is gone or damaged; with the remedy.
    """
    try:
        return pq.read_table(path, columns=list(columns), filters=filters)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None


def stream_metadata(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Published records, in their order, some at a time: a shard may be of any size.

    :param columns: None for all; those that an older version did not write are left out.
    :raises DamagedRun: the file is gone or damaged; with the remedy.
    """
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS, columns=columns and list(columns)):
                yield pa.table(batch)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> DamagedRun:
    repair = shell_command("batchgen", "verify", path.parent.parent, "--repair")
    return DamagedRun(
        f"{path}: cannot be read: {error}. To put it aside and make it again: {repair}"
    )


def to_table(records: Sequence[Record], extras: pa.Table) -> pa.Table:
    """Records as Arrow rows.

    :param extras: the manifest's other columns, one row a record, in the same order. They become
        the struct column `extra`; without such columns there is no struct.
    """
    columns = {name: [getattr(record, name) for record in records] for name in SCHEMA.names}
    table = pa.table(columns, schema=SCHEMA)
    if not extras.num_columns:
        return table
    arrays = [column.combine_chunks() for column in extras.columns]
    struct = pa.StructArray.from_arrays(arrays, fields=list(extras.schema))
    return table.append_column("extra", struct)
