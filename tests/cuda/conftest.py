"""What every test on the emulated card needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cuda.card import build_guard


@pytest.fixture(scope="session")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What lets a CPU build index the card's tensors."""
    try:
        return build_guard(tmp_path_factory.mktemp("cuda"))
    except OSError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(f"a device guard must be compiled: {error}; apt-get install g++")
