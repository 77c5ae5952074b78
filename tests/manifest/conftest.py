from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import ManifestError
from batchgen.manifest import ValidManifest, validate_manifest
from batchgen.settings.job import Sampling


@pytest.fixture
def parquet(tmp_path: Path) -> Callable[..., Path]:
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
def look() -> Callable[..., ValidManifest]:
    """Surveys files with a limit of 20 tokens, a token being a word."""

    def run(
        *files: Path,
        sampling: Sampling | None = None,
        long_prompts: str = "refuse",
        max_tokens: int = 20,
        **options: Any,
    ) -> ValidManifest:
        return validate_manifest(
            files,
            sampling or Sampling(),
            max_tokens=max_tokens,
            long_prompts=long_prompts,
            count_tokens=lambda text: len(text.split()) + 1,
            **options,
        )

    return run


@pytest.fixture
def refused(look: Callable[..., ValidManifest]) -> Callable[..., str]:
    """The message with which files are refused."""

    def run(*files: Path, **options: Any) -> str:
        with pytest.raises(ManifestError) as error:
            look(*files, **options)
        return str(error.value)

    return run
