from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.manifest.validation import Parquet, Write


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


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file; text as UTF-8."""

    def to(name: str, content: str | bytes) -> Path:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tmp_path / name

    return to
