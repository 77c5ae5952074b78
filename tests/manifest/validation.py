"""Manifests validated with a limit of 20 tokens, where every word is a token."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import ManifestError
from batchgen.manifest import Picture, pictures, read_rows, validate_manifest
from batchgen.manifest.validate import ValidManifest
from batchgen.settings import Sampling

Parquet = Callable[..., Path]


def validate(*files: Path, sampling: Sampling | None = None, **options: Any) -> ValidManifest:
    defaults = {
        "max_tokens": 20,
        "long_prompts": "refuse",
        "count_tokens": lambda text: len(text.split()) + 1,
    }
    return validate_manifest(files, sampling or Sampling(), **(defaults | options))


def refusal(*files: Path, **options: Any) -> str:
    """The message with which files are refused."""
    with pytest.raises(ManifestError) as error:
        validate(*files, **options)
    return str(error.value)


def all_pictures(*files: Path, sampling: Sampling | None = None) -> list[Picture]:
    sampling = sampling or Sampling()
    found = validate(*files, sampling=sampling)
    rows = read_rows(found.sources, 0, found.rows)
    return pictures(rows, first_row=0, first_key=0, skip=0, count=found.pictures, sampling=sampling)
