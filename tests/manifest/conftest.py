from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.manifest.validation import Parquet


@pytest.fixture
def parquet(tmp_path: Path) -> Parquet:
    """Writes a Parquet file; columns by name, `prompt` filled in where only others matter."""

    def write(
        name: str = "prompts.parquet", options: dict[str, Any] | None = None, **columns: Any
    ) -> Path:
        rows = len(next(iter(columns.values()))) if columns else 1
        table = pa.table({"prompt": ["a red circle"] * rows} | columns)
        pq.write_table(table, tmp_path / name, **(options or {}))
        return tmp_path / name

    return write
