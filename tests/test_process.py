"""A process is told apart from every other one, whatever becomes of the system clock."""

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from batchgen import process
from batchgen.process import Process
from batchgen.run.owner import Owner

HOUR_S = 3600.0


@pytest.fixture
def stepped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system clock was set an hour ahead after this process started."""
    create_time = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda own: create_time(own) + HOUR_S)


def written(owner: Process) -> dict[str, object]:
    """An owner as its file has it."""
    content: dict[str, object] = json.loads(json.dumps(asdict(owner)))
    return content


@pytest.mark.parametrize("kind", [Process, Owner])
def test_a_step_of_the_system_clock_makes_no_process_dead(
    kind: type[Process], stepped_clock: None
) -> None:
    before = kind(**written(kind.me()))
    assert before == kind.me(), "nothing in it depends on the system clock"
    assert before.life() == "alive"


def test_another_process_of_the_same_number_is_dead_in_this_boot_and_after_it() -> None:
    me = Process.me()
    assert replace(me, started=me.started - 2).life() == "dead"
    assert replace(me, boot="00000000-0000-4000-8000-000000000000").life() == "dead"
    assert replace(me, pid=2**22 + 1).life() == "dead", "there is no such process"


def test_a_file_of_version_0_2_has_no_boot_and_a_start_by_the_system_clock() -> None:
    started = psutil.Process().create_time()
    old = {"host": Owner.me().host, "pid": os.getpid(), "started": started}
    assert Process(**old).life() == "alive"
    assert Owner(**old | {"job": "", "restarts": 0}).life() == "alive"
    assert Process(**old | {"started": started - 100}).life() == "dead"


def test_where_the_kernel_names_no_boot_the_system_clock_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_BOOT", tmp_path / "none")
    me = Process.me()
    assert (me.boot, me.life()) == ("", "alive")
    assert abs(me.started - psutil.Process().create_time()) < 1


def test_a_program_may_have_any_name(tmp_path: Path) -> None:
    """The start is read behind the program's name, which may look like what follows it."""
    program = tmp_path / ") R 1 (x"
    program.write_text("#!/bin/sh\nread line\n")
    program.chmod(0o755)
    with psutil.Popen([str(program)], stdin=-1) as child:
        begun = process._started(child.pid, Process.me().boot)
        assert begun >= Process.me().started
        child.communicate(b"\n")
