"""batchgen starts at once: no verb that only reads a run imports torch."""

import os
import subprocess
import sys

import pytest

import batchgen
from tests.support.rehearsal import ask

VERBS = ("plan", "submit", "resume", "status", "logs", "verify", "export", "doctor", "cancel")


def test_help_takes_less_than_half_a_second_of_cpu() -> None:
    def once() -> float:
        command = [sys.executable, "-m", "batchgen", "--help"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, code, used = os.wait4(process.pid, 0)
        process.returncode = code
        assert code == 0
        return used.ru_utime + used.ru_stime

    assert min(once() for _ in range(3)) < 0.5


def test_the_version_is_told_by_the_package_too() -> None:
    command = [sys.executable, "-m", "batchgen", "--version"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told.stdout == ask("--version").out == f"batchgen {batchgen.__version__}\n"
    assert ask("doctor", "-h").out == ask("doctor", "--help").out


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_every_verb_has_help(verb: str) -> None:
    answer = ask(*verb.split(), "--help")
    assert answer.code == 0
    assert "Usage:" in answer.out
    assert all(name in answer.out for name in VERBS) or verb
    assert "..." not in answer.out.partition("Commands:")[2], "a line is too long for 80 columns"


def test_planning_and_watching_import_no_torch() -> None:
    rooms = [
        "cli",
        "dataset",
        "launch.slurm_array",
        "planning",
        "run",
        "view.show_plan",
        "view.watch",
    ]
    imports = ", ".join(f"batchgen.{room}" for room in [*rooms, "worker.main"])
    heavy = ("torch", "diffusers", "submitit")
    code = f"import sys, {imports}\nprint([name for name in {heavy} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


def test_no_words_give_the_help_and_a_wrong_verb_is_told() -> None:
    assert "Commands:" in ask().out + ask().err
    assert "No such command 'sumbit'" in ask("sumbit").err
