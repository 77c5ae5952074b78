"""A worker ends before SLURM ends its job: by an alarm, or by a watchdog if it hangs."""

import subprocess
import sys
import time

import pytest

from batchgen.worker.signals import Signals

BEGIN = """
import time
from batchgen.worker import signals
signals.HANG_S = 1.0
given = signals.Signals()
given.install()
last = given.end_before(time.time() + {left_s}, warning_s={warning_s})
print(round(last - time.time()))
try:
    {work}
except signals.Terminated:
    print(given.leave)
"""


def run(work: str, *, left_s: float = 2.0, warning_s: float = 2.0) -> tuple[int, str, str]:
    """Exit code and output of a process whose job ends in so many seconds."""
    code = BEGIN.format(work=work, left_s=left_s, warning_s=warning_s)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_the_last_moment_interrupts_what_a_worker_does() -> None:
    assert run("time.sleep(30)") == (0, "1\ndeadline\n", "")


def test_the_alarm_leaves_the_batch_script_half_of_the_warning() -> None:
    assert run("pass", left_s=10.0, warning_s=4.0)[1] == "8\n"


@pytest.mark.slow
def test_a_worker_that_hangs_where_no_signal_reaches_it_is_ended_with_its_stack() -> None:
    began = time.time()
    code, _, output = run("sum(range(10**12))")
    assert code == 1
    assert "Timeout" in output
    assert time.time() - began < 25


def test_a_job_without_an_end_sets_no_alarm() -> None:
    assert Signals().end_before(None, 90) == float("inf")
