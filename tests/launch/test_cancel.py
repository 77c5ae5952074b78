"""`cancel --now` ends whoever lives on this machine, also without a supervisor or a true clock."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from batchgen.launch.cancel import cancel, stop
from batchgen.run import submissions
from batchgen.run.owner import Owner
from batchgen.run.run import Run
from batchgen.run.submissions import Role
from tests.support.specimens import planned

ENDS_ON_SIGTERM = "import signal, sys; print(flush=True); signal.pause()"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = planned(tmp_path)
    submissions.record_submission(run.directory, [], 1)
    return run


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-Sc", ENDS_ON_SIGTERM], stdout=-1) as process:
        assert process.stdout
        process.stdout.readline()
        yield process
        process.kill()


def joined(run: Run, owner: Owner, role: Role = "worker") -> None:
    submissions.join(run.directory, 1, role).write_text(json.dumps(asdict(owner)))


def owner_of(process: subprocess.Popen[bytes]) -> Owner:
    """As the process itself would write it."""
    me = Owner.me()
    since_me = psutil.Process(process.pid).create_time() - psutil.Process().create_time()
    return replace(me, pid=process.pid, started=me.started + since_me)


@pytest.mark.parametrize("role", ["supervisor", "worker"])
def test_whoever_lives_is_ended_after_a_step_of_the_clock(
    role: Role, run: Run, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a worker whose supervisor was killed."""
    joined(run, owner_of(process), role)
    create_time = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda own: create_time(own) + 3600)
    assert stop(run.directory, at_once=True, again="") == "Ending the workers now."
    assert process.wait(timeout=30) == -15


def test_workers_elsewhere_are_named_with_what_to_type_there(run: Run) -> None:
    joined(run, Owner("elsewhere", 1, 1.0))
    told = stop(run.directory, at_once=True, again="")
    command = f"batchgen cancel {run.directory.root} --now"
    assert told.startswith("Workers on elsewhere, if they live, stop after the groups in flight")
    assert told.endswith(command)


def test_a_run_on_which_nobody_works_is_not_said_to_stop_after_a_group(run: Run) -> None:
    told = cancel(run.directory, at_once=False)
    assert told.startswith("Stopping after the groups in flight"), "its workers may be starting"
    joined(run, replace(Owner.me(), started=1.0))
    told = cancel(run.directory, at_once=False)
    assert told == (
        f"Nobody works on this run. It stays stopped until: batchgen resume {run.directory.root}"
    )
    joined(run, Owner.me(), "supervisor")
    assert cancel(run.directory, at_once=False).startswith("Stopping after the groups in flight")
