"""A worker that hangs says at what and for how long, and ends; its last words are the reason."""

import subprocess
import sys
import time

import pytest

CODE = """
import logging, time
logging.basicConfig(format="%(message)s")
from batchgen.worker import watchdog
watchdog.GRACE_S = 2.0
dog = watchdog.Watchdog()
{work}
"""


def run(work: str) -> tuple[int, list[str], float]:
    """Exit code, lines on stderr and seconds of a process that is watched."""
    began = time.monotonic()
    command = [sys.executable, "-c", CODE.format(work=work)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr.splitlines(), time.monotonic() - began


@pytest.mark.slow
def test_the_last_line_is_the_reason_and_the_stacks_stand_before_it() -> None:
    code, said, _ = run('dog.watch(1.0, lambda: "pictures 4…7: too long"); time.sleep(30)')
    assert (code, said[0], said[-1]) == (1, "Timeout (0:00:01)!", "pictures 4…7: too long")
    assert any("most recent call first" in line for line in said)


@pytest.mark.slow
def test_a_process_that_lets_no_thread_run_is_ended_a_little_later() -> None:
    code, said, seconds = run('dog.watch(1.0, lambda: "never said"); sum(range(10**12))')
    assert (code, "Timeout (0:00:03)!" in said) == (1, True)
    assert seconds < 30


def test_whoever_is_called_off_or_watches_something_new_lives() -> None:
    work = 'dog.watch(0.3, str); dog.watch(9.0, str); time.sleep(0.6); dog.call_off(); print("on")'
    assert run(work)[:2] == (0, [])
