"""Published records: the rows of `metadata/NNNNNN.parquet`, written and read.

Their columns are in `columns.py`. Runs that were planned by batchgen 0.2 and older keep the columns
of that time (`older_metadata.py`) to their end. They are read as if they had today's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.errors import DamagedRun, shell_command
from batchgen.model import Ingredient
from batchgen.shard.columns import COLUMNS, EXTRA, INGREDIENT, MADE_WITH, MEANING, SCHEMA
from batchgen.shard.older_metadata import is_older, needed, older_table, renewed
from batchgen.shard.records import Record

# Records that are read at once.
ROWS = 16_384
# Column → its type.
_TYPES = dict(zip(SCHEMA.names, SCHEMA.types, strict=True))


def moments_s(table: pa.Table) -> npt.NDArray[np.float64]:
    """`finished_at` of records, in seconds since the epoch."""
    microseconds: npt.NDArray[np.int64] = table["finished_at"].cast(pa.int64()).to_numpy()
    return microseconds / 1e6


def to_table(
    records: Sequence[Record],
    extras: pa.Table,
    *,
    made_with: Sequence[Ingredient] = (),
    older: bool = False,
) -> pa.Table:
    """Records as Arrow rows.

    :param extras: the manifest's other columns, one row a record, in the same order. They become
        the struct column `extra`; without such columns there is no struct.
    :param made_with: the model and its LoRAs.
    :param older: of a run that batchgen 0.2 or older has planned, whose records do not name them.
    """
    table = older_table(records) if older else _table(records, made_with)
    if not extras.num_columns:
        return table
    arrays = [column.combine_chunks() for column in extras.columns]
    struct = pa.StructArray.from_arrays(arrays, fields=list(extras.schema))
    field = pa.field("extra", struct.type, metadata=None if older else {MEANING: EXTRA})
    return table.append_column(field, struct)


def encode_table(table: pa.Table) -> bytes:
    """The Parquet file of a shard's records: readers need no more memory for a larger shard."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=ROWS, compression="zstd")
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _table(records: Sequence[Record], made_with: Sequence[Ingredient]) -> pa.Table:
    ingredients = [one.model_dump(include=set(INGREDIENT)) for one in made_with]
    columns = [
        [ingredients] * len(records)
        if column.name == MADE_WITH
        else [column.value(one) if column.value else getattr(one, column.name) for one in records]
        for column in COLUMNS
    ]
    arrays = [
        pa.array(values, column.type) for values, column in zip(columns, COLUMNS, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def read_metadata(
    path: Path,
    columns: Sequence[str],
    filters: Sequence[tuple[str, str, str]] | None = None,
    content: bytes | None = None,
) -> pa.Table:
    """Columns of published records.

    :param columns: those that an older version did not write are left out.
    :param filters: as `pyarrow.parquet.read_table` takes them.
    :param content: of the file, if it has been read already.
    :raises DamagedRun: the file is gone or damaged; with the remedy.
    """
    try:
        source = path if content is None else pa.BufferReader(content)
        schema = pq.read_schema(source)
        older = is_older(schema)
        _refuse_other_types(path, schema)
        wanted = [name for name in needed(columns) if name in schema.names] if older else columns
        table = pq.read_table(source, columns=list(wanted), filters=filters)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None
    return renewed(table, SCHEMA, columns) if older else table


def stream_metadata(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Published records, in their order, some at a time: a shard may be of any size.

    :param columns: None for all; those that an older version did not write are left out.
    :raises DamagedRun: the file is gone or damaged; with the remedy.
    """
    try:
        with pq.ParquetFile(path) as file:
            older = is_older(file.schema_arrow)
            _refuse_other_types(path, file.schema_arrow)
            wanted = needed(columns) if older and columns else columns
            for batch in file.iter_batches(ROWS, columns=wanted and list(wanted)):
                table = pa.table(batch)
                yield renewed(table, SCHEMA, columns) if older else table
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from None


def _refuse_other_types(path: Path, schema: pa.Schema) -> None:
    """Check that today's columns have the types that they were written with.

    :raises DamagedRun: one has not, because the file's description of it is damaged.
    """
    if is_older(schema):
        return
    for name, found in zip(schema.names, schema.types, strict=True):
        if found != _TYPES.get(name, found):
            raise _unreadable(path, TypeError(f"its column {name} is {found}"))


def _unreadable(path: Path, error: Exception) -> DamagedRun:
    repair = shell_command("batchgen", "verify", path.parent.parent, "--repair")
    why = str(error).rstrip(".")
    return DamagedRun(f"{path}: cannot be read: {why}. To put it aside and make it again: {repair}")
