"""The records of an export: those of the run that count, with what the copy has otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from batchgen import durable
from batchgen.dataset.chosen import latest_records
from batchgen.dataset.exported_tars import ExportedTar
from batchgen.shard import encode_table, stream_metadata


def write_records(files: Sequence[Path], folder: Path, tars: Sequence[ExportedTar]) -> None:
    """Write the records that count, each with the copy's tar, and hash and size of its picture.

    :param files: the run's records.
    :param folder: where they are to be written.
    :param tars: all of the copy.
    """
    folder.mkdir(exist_ok=True)
    placed = _Placed(tars)
    for path, latest in zip(files, latest_records(files), strict=True):
        table = pa.concat_tables(stream_metadata(path)).filter(pa.array(latest))
        durable.write(folder / path.name, encode_table(placed.told(table)))


class _Placed:
    """Where each picture of the copy is, and what its file is if it was signed."""

    def __init__(self, tars: Sequence[ExportedTar]) -> None:
        keys = np.concatenate([np.array(tar.keys, np.int64) for tar in tars])
        numbers = np.repeat(np.arange(len(tars)), [len(tar.keys) for tar in tars])
        order = np.argsort(keys)
        self._keys, self._numbers = keys[order], numbers[order]
        self._names = pa.array([tar.name for tar in tars], pa.string())
        self._signed = {key: one for tar in tars for key, one in tar.signed.items()}

    def told(self, table: pa.Table) -> pa.Table:
        """Records as the copy's."""
        wanted = table["index"].to_numpy()
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        absent = self._keys[at] != wanted
        table = _with(table, "tar", self._names.take(pa.array(self._numbers[at], mask=absent)))
        if not self._signed:
            return table
        files = [self._signed.get(key) for key in wanted.tolist()]
        table = _with(table, "sha256", [one and one.sha256 for one in files])
        return _with(table, "image_bytes", [one.size if one else 0 for one in files])


def _with(table: pa.Table, name: str, values: object) -> pa.Table:
    """The table with a column's values in place of others, if it has the column: older may not."""
    if name not in table.column_names:
        return table
    field = table.schema.field(name)
    column = pa.array(values, field.type) if isinstance(values, list) else values
    return table.set_column(table.schema.get_field_index(name), field, column)
