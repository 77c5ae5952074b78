"""Published records, and what their columns mean."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TextIO

from rich.console import Console

from batchgen.run import RunDirectory
from batchgen.shard import COLUMNS, EXTRA, Superseded, published_shards
from batchgen.view.console import print_lines


def show_columns(console: Console) -> None:
    """Every column of `metadata/*.parquet`: its name, its type and its meaning."""
    told = [(column.name, str(column.type), column.meaning) for column in COLUMNS]
    told.append(("extra", "struct", EXTRA))
    print_lines(console, [f"{name} ({type_}): {meaning}" for name, type_, meaning in told])


def write_records(directory: RunDirectory, out: TextIO) -> None:
    """Write the records that count as JSON lines, shard by shard: one for every picture.

    :raises DamagedRun: a file is gone or damaged; with the remedy.
    """
    superseded = Superseded(directory)
    for shard in sorted(published_shards(directory)):
        for table in superseded.current(shard):
            out.writelines(
                json.dumps(row, ensure_ascii=False, default=_written) + "\n"
                for row in table.to_pylist()
            )


def _written(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
