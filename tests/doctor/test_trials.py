"""Every capability is really tried on this machine's device."""

import subprocess
import sys

import pytest

from batchgen.doctor import devices
from batchgen.doctor.child import attempt
from batchgen.doctor.needs import Needs
from batchgen.settings import load_job

pytestmark = pytest.mark.slow


def test_this_machines_cpu_does_all_that_a_job_can_ask_of_it(no_driver: None) -> None:
    job = load_job(None, ["engine.device=cpu", "precision.linear=int8", "compile.mode=default"])
    found = {finding.name: finding for finding in devices.devices(Needs(job))}
    compiler = found.pop("compiler")
    assert {finding.state for finding in found.values()} == {"ok"}, found
    assert compiler.state == "failed", "no compiler is on the PATH of this test"
    # FP8 has 3.7%, int8 at most 2.4%; bf16 attention 1%.
    for name, most in (("fp8", 5.0), ("int8", 3.0), ("attention_flash", 1.0)):
        off = float(found[name].found.partition("CPU: ")[2].partition("%")[0])
        assert 0 <= off < most, found[name]
    assert "two processes exchanged 4 MB over gloo" in found["ranks"].found


def test_a_function_is_compiled_and_computes_the_same() -> None:
    assert attempt("compiler", limit_s=300)["off"] < 1e-5


def test_a_wrong_number_is_no_answer() -> None:
    code = (
        "import torch; from batchgen.doctor.trial import _compared as c; x = torch.ones(4);"
        "print(sorted(c(x, x)), sorted(c(2 * x, x)), sorted(c(x * float('nan'), x)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "['off'] ['error'] ['error']\n"
