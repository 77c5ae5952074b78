"""Which pictures of a dataset are read for training, decided by their records.

A key may have several records, one a generation, and their samples stay in the tars: the record of
the latest generation counts, and the tar that it names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchgen.dataset.splits import inside
from batchgen.errors import InputError
from batchgen.settings import Splits
from batchgen.shard import SCHEMA, read_metadata, stream_metadata

# A condition over columns, or a function of a record.
Where: TypeAlias = pc.Expression | Callable[[dict[str, Any]], bool]


class Chosen(NamedTuple):
    """Pictures of one tar."""

    tar: Path
    # In their order in the tar.
    keys: npt.NDArray[np.int64]


def choose(root: Path, bounds: tuple[float, float], where: Where | None) -> list[Chosen]:
    """The pictures between the bounds of a split for which `where` is true, tar by tar.

    Of a run that goes on, those that are published now.

    :raises InputError: nothing is published, or `where` is no condition over records.
    :raises DamagedRun: records are damaged.
    """
    files = metadata_files(root)
    if not files:
        raise InputError(f"{root}: no records in its folder metadata: nothing is published there")
    columns = ["index", "tar", "prompt_place"] if where is None else None
    chosen: list[Chosen] = []
    for path, counting in zip(files, latest_records(files), strict=True):
        at = 0
        for table in stream_metadata(path, columns):
            counts = pa.array(counting[at : at + len(table)])
            at += len(table)
            table = table.filter(counts).filter(pc.field("tar").is_valid())
            table = table.filter(pa.array(inside(table["prompt_place"].to_numpy(), bounds)))
            chosen += _by_tar(root, _matching(table, where))
    return _joined(chosen)


def count_splits(root: Path, splits: Splits) -> dict[str, int]:
    """How many good pictures each split has; raises as `choose`."""
    chosen = {name: choose(root, bounds, None) for name, bounds in splits.bounds().items()}
    return {name: sum(len(one.keys) for one in some) for name, some in chosen.items()}


def metadata_files(root: Path) -> list[Path]:
    """The published records of a dataset."""
    return sorted((root / "metadata").glob("[!.]*.parquet"))


def latest_records(files: Sequence[Path]) -> list[npt.NDArray[np.bool_]]:
    """Of each file, which of its records are the latest of their keys."""
    tables = [read_metadata(path, ["index", "generation"]) for path in files]
    whole = pa.concat_tables(tables)
    keys, generations = whole["index"].to_numpy(), whole["generation"].to_numpy()
    order = np.lexsort((generations, keys))
    last = np.append(np.diff(keys[order]) != 0, True)  # behind it another key begins
    counting = np.zeros(len(keys), np.bool_)
    counting[order[last]] = True
    return np.split(counting, np.cumsum([len(table) for table in tables])[:-1])


def _matching(table: pa.Table, where: Where | None) -> pa.Table:
    if where is None:
        return table
    if not isinstance(where, pc.Expression):
        if not callable(where):
            raise InputError(
                f"where = {where!r}: expected a condition such as pc.field('width') >= 128, with "
                "pyarrow.compute as pc, or a function of a record"
            )
        return table.filter(pa.array([bool(where(row)) for row in table.to_pylist()], pa.bool_()))
    try:
        return table.filter(where)
    except (pa.ArrowException, TypeError) as error:
        known = ", ".join([*SCHEMA.names, "extra"])
        wrong = str(error).partition(" in ")[0]  # behind it all columns are listed
        raise InputError(
            f"where = {where}: {wrong}; expected a condition over the columns {known}"
        ) from None


def _by_tar(root: Path, table: pa.Table) -> Iterator[Chosen]:
    for tar in table["tar"].unique().to_pylist():
        yield Chosen(root / tar, table.filter(pc.field("tar") == tar)["index"].to_numpy())


def _joined(parts: list[Chosen]) -> list[Chosen]:
    """The same, each tar once."""
    keys: dict[Path, list[npt.NDArray[np.int64]]] = {}
    for tar, some in parts:
        keys.setdefault(tar, []).append(some)
    return [Chosen(tar, np.concatenate(some)) for tar, some in keys.items()]
