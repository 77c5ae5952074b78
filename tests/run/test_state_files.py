"""A damaged file of a run ends in a message and a way on; no command and no worker dies of it."""

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from batchgen.errors import DamagedRun, PlanChanged
from batchgen.run.departures import Departure, LeaveCause
from batchgen.run.directory import RunDirectory
from batchgen.run.job_arrays import arrays_of, record_arrays
from batchgen.run.owner import Owner
from batchgen.run.run import Run, pin_identity
from batchgen.run.stop import ask_to_stop, clear_stop, read_stop
from batchgen.run.submissions import (
    folder,
    join,
    leave,
    members,
    read_submissions,
    record_submission,
    submission_file,
)
from batchgen.shard.claims import Claims, read_owner
from batchgen.worker.main import main
from batchgen.worker.placement import Placement
from tests.support.rehearsal import ask
from tests.support.specimens import planned, worked

DAMAGES = {
    "empty": b"",
    "zeros": bytes(300),
    "torn": b'{"number": 1, "at": 17',
    "not text": b"\xff\xfe\x00",
    "a list": b"[]",
    "null": b"null",
    "nothing in it": b"{}",
    "deep": b"[" * 100_000,
    "another kind": b'{"owner": 5, "host": 7, "pid": "x", "started": null, "cause": "?", "at": ""}',
}


@pytest.fixture(params=DAMAGES.values(), ids=DAMAGES.keys())
def damage(request: pytest.FixtureRequest) -> bytes:
    return bytes(request.param)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of three shards with a submission, whose supervisor and worker have left."""
    run = planned(tmp_path, ["a cat"] * 10)
    number = record_submission(run.directory, ["batchgen"], 1).number
    for role in ("supervisor", "worker"):
        leave(join(run.directory, number, role), Departure(LeaveCause.NOTHING_FREE))
    return run


def done_as_told(message: str) -> None:
    """Type the command at the end of a message."""
    words = shlex.split(message.rpartition(": ")[2])
    assert words[0] == "mv"
    subprocess.run(words, check=True)


def test_a_damaged_submission_is_named_with_a_way_on(run: Run, damage: bytes) -> None:
    submission_file(run.directory, 1).write_bytes(damage)
    for verb in ("status", "logs --failed", "cancel", "resume"):
        answer = ask(*verb.split(), run.directory.root)
        assert answer.code == 1
        assert "0001.json: damaged: " in answer.err
    done_as_told(answer.err.strip())
    assert ask("status", run.directory.root).code in (3, 5)
    assert read_submissions(run.directory) == []
    assert record_submission(run.directory, ["batchgen"], 1).number == 2, "0001/ is another's"


def test_a_worker_of_a_damaged_submission_leaves_and_is_not_started_again(
    run: Run, damage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchgen.worker.main._print_to", lambda path: None)
    submission_file(run.directory, 1).write_bytes(damage)
    main(run.directory.root, Placement(1, 5))
    (member,) = (member for member in members(run.directory) if member.index == 5)
    assert member.departure
    assert "0001.json: damaged: " in str(member.departure)


def test_a_damaged_stop_flag_stops_the_run_and_can_be_cleared(run: Run, damage: bytes) -> None:
    ask_to_stop(run.directory, "disk full", "no space")
    run.directory.stop.write_bytes(damage)
    assert (stop := read_stop(run.directory))
    assert (stop.cause, f"{run.directory.stop} is there, and damaged") == ("user", stop.text)
    answer = ask("status", run.directory.root)
    assert answer.code == 3
    assert "stopped: user: " in answer.out
    clear_stop(run.directory)
    assert read_stop(run.directory) is None


def test_the_shard_of_a_damaged_claim_is_free(run: Run, damage: bytes) -> None:
    """Should its owner live after all, two owners cost time and nothing else."""
    claims = Claims(run.directory, 3, 0)
    assert claims.next()
    run.directory.claim(0, 1).write_bytes(damage)
    assert read_owner(run.directory, 0, 1) is None
    others = Claims(run.directory, 3, 1)
    taken = [others.next() for _ in range(3)]
    assert [(one.shard, one.attempt) for one in taken if one] == [(1, 1), (2, 1), (0, 2)]
    assert taken[2]
    assert taken[2].deaths() == [], "nobody knows whether the owner died"


def test_whatever_lies_in_the_place_of_the_reserve_the_run_can_be_resumed(run: Run) -> None:
    run.directory.reserve.unlink()
    run.directory.reserve.symlink_to("/dev/full")
    clear_stop(run.directory)
    assert run.directory.reserve.stat().st_size > 0
    assert not run.directory.reserve.is_symlink()


def test_a_run_with_a_damaged_claim_is_made(run: Run, damage: bytes) -> None:
    run.directory.claim(1, 1).write_bytes(damage)
    assert worked(run).directory.complete()


@pytest.mark.parametrize("name", ["supervisor.json", "worker-000.00.json"])
def test_a_damaged_process_file_counts_as_a_process_that_left(
    name: str, run: Run, damage: bytes
) -> None:
    path = folder(run.directory, 1) / name
    path.with_suffix(".end").unlink()
    path.write_bytes(damage)
    (member,) = (member for member in members(run.directory) if member.path == path)
    assert (member.life(), str(member.departure)) == ("dead", f"{path} is damaged")
    assert ask("status", run.directory.root).code == 5
    assert ask("cancel", run.directory.root, "--now").code == 0


def test_a_departure_of_any_bytes_is_shown(run: Run) -> None:
    path = folder(run.directory, 1) / "worker-000.00.end"
    path.write_bytes(b"SIGTERM: \xff\xfe")
    (folder(run.directory, 1) / "element-000.over").write_bytes(b"\xff")
    assert ask("status", run.directory.root).code == 5


def test_of_an_endless_or_very_long_text_no_more_is_read_than_a_person_reads(run: Run) -> None:
    left = folder(run.directory, 1)
    (left / "worker-000.00.end").write_bytes(b"SIGTERM: " + bytes(10**6))
    os.mkfifo(left / "element-000.over")
    (left / "worker-000.00.stage").symlink_to("/dev/zero")
    (run.directory.logs / "0001-worker-000.log").symlink_to("/dev/zero")
    run.directory.identity.write_bytes(bytes(10**6))
    for verb in ("status", "logs", "logs --failed"):
        answer = ask(*verb.split(), run.directory.root)
        assert len(answer.out + answer.err) < 30_000
    with pytest.raises(PlanChanged) as told:
        pin_identity(run.directory, "cpu, fp32")
    assert len(str(told.value)) < 2_000


def test_damaged_ids_of_job_arrays_are_named_with_a_way_on(run: Run, damage: bytes) -> None:
    record_arrays(run.directory, 1, {"4711": 2})
    path = folder(run.directory, 1) / "slurm.json"
    if damage == b"{}":
        return  # no arrays
    path.write_bytes(damage)
    with pytest.raises(DamagedRun, match=r"slurm\.json: damaged: ") as told:
        arrays_of(run.directory, 1)
    done_as_told(str(told.value))
    assert arrays_of(run.directory, 1) == {}


def test_a_damaged_identity_of_the_engine_says_where_it_stands(run: Run) -> None:
    run.directory.identity.write_bytes(b"\xff\xfe")
    with pytest.raises(PlanChanged, match=str(run.directory.identity)):
        pin_identity(run.directory, "cpu, fp32")


@pytest.mark.parametrize("strange", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
@pytest.mark.parametrize("name", ["claim", "worker", "submission", "stop", "commit", "plan"])
def test_a_folder_or_a_pipe_in_the_place_of_a_file_is_told(
    name: str, strange: Callable[[Path], None], run: Run
) -> None:
    directory = run.directory
    place = {
        "claim": directory.claim(0, 1),
        "worker": folder(directory, 1) / "worker-000.00.json",
        "submission": submission_file(directory, 1),
        "stop": directory.stop,
        "commit": directory.done(0),
        "plan": directory.plan,
    }[name]
    place.unlink(missing_ok=True)
    strange(place)
    told = [ask(*verb.split(), directory.root) for verb in ("status", "verify --deep", "cancel")]
    assert {answer.code for answer in told} <= {0, 1, 2, 3, 5}
    if name == "claim":
        assert read_owner(directory, 0, 1) is None
    if name in ("submission", "commit", "plan"):
        assert any(place.name in answer.err + answer.out for answer in told)


def strangers(directory: RunDirectory) -> Iterator[Path]:
    yield directory.jobs / "0abc.json"
    yield directory.jobs / "notes.json"
    yield directory.jobs / "backup" / "worker-000.00.json"
    yield directory.jobs / "0001" / "worker-x.json"
    yield directory.inner / "partial" / "000" / "notes.journal"
    yield directory.inner / "claims" / "000" / "notes"
    yield directory.inner / "done" / "000" / "notes.json"
    yield directory.inner / "notes.txt"


def test_names_that_are_not_batchgens_disturb_nobody(run: Run) -> None:
    for path in strangers(run.directory):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"mine")
    assert ask("status", run.directory.root).code == 5
    assert worked(run).directory.complete()
    assert all(path.read_bytes() == b"mine" for path in strangers(run.directory))


def test_files_of_older_versions_are_read(run: Run) -> None:
    """Without keys that were added since."""
    owner = {"host": "h", "pid": 1, "started": 5, "job": "", "restarts": 0}
    path = folder(run.directory, 1) / "worker-000.00.json"
    path.write_text(json.dumps(owner))
    run.directory.claim(0, 1).write_text(json.dumps({"owner": owner, "at": 1.5}))
    found = {member.path: member.owner for member in members(run.directory)}
    assert found[path] == read_owner(run.directory, 0, 1) == Owner("h", 1, 5.0)
    assert asdict(found[path]).items() >= owner.items()
