"""Frozen lists of pictures: the pictures of a generation, as a Parquet file in `.batchgen/`.

The plan of the generation has the file's name and hash. The name has the hash too, so that two who
begin a generation at once do not write one file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batchgen import durable
from batchgen.errors import DamagedRun
from batchgen.planning import KeyList, Places
from batchgen.regular_file import read_regular
from batchgen.run.directory import RunDirectory

Ints = npt.NDArray[np.int64]
# `index` is the picture's key as a number; `row` and `image` its place in the manifest; `shard` the
# one with its record that counts no more; `reseeded` the generation that gave it another seed than
# the manifest's, 0 if none has.
_COLUMNS = ("index", "row", "image", "shard", "reseeded")
_SCHEMA = pa.schema([(name, pa.int64()) for name in _COLUMNS])


def write_list(
    directory: RunDirectory, generation: int, places: Places, shards: Ints, reseeded: Ints
) -> KeyList:
    """Write the list of a generation.

    :param shards: of each picture, the shard with its present record.
    :param reseeded: likewise, the generation that gave it another seed.
    """
    columns = [places.keys, places.rows, places.images, shards, reseeded]
    table = pa.Table.from_arrays([pa.array(one, pa.int64()) for one in columns], schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content = sink.getvalue().to_pybytes()
    sha256 = hashlib.sha256(content).hexdigest()
    listed = KeyList(file=f"keys-{generation:04d}.{sha256[:12]}.parquet", sha256=sha256)
    durable.create(directory.inner / listed.file, content)
    return listed


def read_list(directory: RunDirectory, listed: KeyList) -> pa.Table:
    """The list, in the order of keys: columns `index`, `row`, `image`, `shard` and `reseeded`.

    :raises DamagedRun: the file is not the one that was written.
    """
    return _read(directory.inner / listed.file, listed.sha256)


def reseeded_by(directory: RunDirectory, lists: Iterable[KeyList], keys: Ints) -> Ints:
    """The generations that gave pictures another seed than the manifest's; 0 if none has.

    :param lists: of the generations so far, in order.
    :param keys: of the pictures, in ascending order.
    :raises DamagedRun: as `read_list`.
    """
    found = np.zeros(len(keys), np.int64)
    for listed in lists:
        table = read_list(directory, listed)
        theirs = table["index"].to_numpy()
        at = np.minimum(np.searchsorted(theirs, keys), len(theirs) - 1)
        found = np.where(theirs[at] == keys, table["reseeded"].to_numpy()[at], found)
    return found


@lru_cache(maxsize=16)
def _read(path: Path, sha256: str) -> pa.Table:
    try:
        content = read_regular(path)
    except OSError as error:
        wrong = str(error.strerror)
    else:
        if hashlib.sha256(content).hexdigest() == sha256:
            return pq.read_table(pa.BufferReader(content))
        wrong = "its hash is not the planned one"
    raise DamagedRun(f"{path}: not the list that was planned: {wrong}. Put it back from a copy.")
