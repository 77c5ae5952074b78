"""Importing the libraries logs nothing that a user need not read, and hides nothing else."""

import logging
import subprocess
import sys

import pytest

from batchgen.engine.quiet_imports import quiet_imports

OPENING = """
import logging
logging.basicConfig(level=logging.INFO)
from batchgen.model import resolve
from batchgen.engine import open_engine
from batchgen.settings.job import parse_job

settings = {"engine": {"device": "cpu"}, "precision": {"linear": "fp8"}}
job = parse_job(settings | {"model": {"path": "tiny"}}, "a test")
open_engine(job, resolve(job.model))
"""


@pytest.mark.slow
def test_opening_an_engine_with_8_bit_linears_logs_no_noise() -> None:
    opened = subprocess.run(
        [sys.executable, "-c", OPENING], capture_output=True, text=True, check=True
    )
    told = opened.stdout + opened.stderr
    assert not [word for word in ("torchao", "triton", "pytree", "torchvision") if word in told]


def test_other_lines_are_kept_and_all_lines_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    torchao = logging.getLogger("torchao")
    with quiet_imports():
        torchao.warning("Failed to load %s", "a kernel")
        torchao.warning("something new")
        logging.getLogger("another").warning("Failed to load %s", "a model")
    torchao.warning("Failed to load %s", "it later")
    assert caplog.messages == ["something new", "Failed to load a model", "Failed to load it later"]
