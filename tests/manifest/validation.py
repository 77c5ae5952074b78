"""Manifests validated with a limit of 20 tokens, where every word is a token."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import InputError
from batchgen.manifest import Picture, pictures, read_rows, validate_manifest
from batchgen.manifest.validate import ValidManifest
from batchgen.settings import Sampling

Parquet = Callable[..., Path]
# Writes a file of these bytes or this text, and returns its path.
Write = Callable[[str, str | bytes], Path]


def validate(*files: Path, sampling: Sampling | None = None, **options: Any) -> ValidManifest:
    """Check files; those that are not Parquet are converted beside the first one."""
    defaults = {
        "parquet": Path(files[0]).with_name(".converted.parquet"),
        "max_tokens": 20,
        "long_prompts": "refuse",
        "count_tokens": lambda text: len(text.split()) + 1,
    }
    return validate_manifest(files, sampling or Sampling(), **(defaults | options))


def refusal(*files: Path, **options: Any) -> str:
    """The message with which files are refused."""
    with pytest.raises(InputError) as error:
        validate(*files, **options)
    return str(error.value)


def all_pictures(
    *files: Path, sampling: Sampling | None = None, mapping: Mapping[str, str] | None = None
) -> list[Picture]:
    """Every picture of files that are valid."""
    sampling, mapping = sampling or Sampling(), mapping or {}
    found = validate(*files, sampling=sampling, mapping=mapping)
    rows = read_rows(found.sources, 0, found.rows, mapping)
    return pictures(rows, first_row=0, first_key=0, skip=0, count=found.pictures, sampling=sampling)
