"""A child that hangs, crashes or cannot begin is told, and never takes its caller along."""

import os
import sys
import time
from pathlib import Path

import pytest

from batchgen.doctor.child import NoAnswer, attempt, call
from tests.support.rehearsal import alive


def test_a_command_that_ends_gives_its_output_and_code() -> None:
    ended = call("sh", "-c", "echo out; echo err >&2; exit 3", limit_s=10)
    assert (ended.code, ended.out, ended.err) == (3, "out\n", "err\n")


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    """Also if it ignores every signal that can be ignored."""
    note, began = tmp_path / "pid", time.monotonic()
    script = f"trap '' TERM INT HUP; sleep 60 & echo $! > {note}; wait"
    with pytest.raises(NoAnswer, match=r"^sh did not end within 0\.3 s$"):
        call("sh", "-c", script, limit_s=0.3)
    assert time.monotonic() - began < 5
    assert not alive(int(note.read_text()))


def test_a_command_that_is_not_there_is_told() -> None:
    with pytest.raises(NoAnswer, match=r"^no-such-tool cannot be started: No such file"):
        call("/nowhere/no-such-tool", limit_s=10)


def library(folder: Path, code: str) -> None:
    """Have every process of this test import a `torch` that does this."""
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text(f"import os, signal, sys, time\n{code}\n")


@pytest.fixture
def broken_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "^trying it ended in SIGSEGV$"),
        (
            "sys.stderr.write('driver lost\\n'); os._exit(7)",
            "^trying it ended with exit code 7: driver lost$",
        ),
        ("raise ImportError('libcudart.so.13: not found')", "^ImportError: libcudart.so.13: not f"),
        ("print('noise', flush=True); os._exit(0)", "^trying it ended with exit code 0: noise$"),
    ],
    ids=["segfault", "exit", "exception", "no answer"],
)
def test_a_library_that_ends_its_process_is_told(code: str, told: str, broken_torch: Path) -> None:
    library(broken_torch, code)
    with pytest.raises(NoAnswer, match=told):
        attempt("cards")


def test_a_library_that_hangs_is_told(broken_torch: Path) -> None:
    library(broken_torch, "time.sleep(60)")
    with pytest.raises(NoAnswer, match=r"^trying it did not end within 0\.5 s$"):
        attempt("cards", limit_s=0.5)


def test_no_module_of_the_current_folder_takes_the_place_of_pythons_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('mine')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NoAnswer, match="KeyError: 'no such trial'"):
        attempt("no such trial")
    assert sys.path[0] != str(tmp_path)
