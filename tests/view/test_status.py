"""Status says what is done, who lives and what to type, from a few opened files."""

import json
import shlex
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from batchgen import durable
from batchgen.planning.plan import Plan, Shard
from batchgen.run import submissions
from batchgen.run.departures import Departure
from batchgen.run.directory import RunDirectory
from batchgen.run.owner import Owner
from batchgen.run.run import Run
from batchgen.run.stages import Notes
from batchgen.run.stop import StopCause, ask_to_stop
from batchgen.run.submissions import Role
from batchgen.shard.loss import Loss
from batchgen.shard.partial_shard import PartialShard
from batchgen.view.show_live import log_line
from batchgen.view.show_status import _status_lines
from batchgen.view.status import START_S, Status, read_status
from tests.support.rehearsal import ask
from tests.support.specimens import done, opens, planned, published, record, write_group

ME = Owner.me()
GONE = replace(ME, started=1.0)
ELSEWHERE = Owner("elsewhere", 1, 1.0)
STRICTER, WARN = "start another run with a stricter [cache]", "audit.action=warn"
SEE = "see batchgen logs {0} --failed; to go on all the same"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Ten pictures in three shards; nothing begun."""
    return planned(tmp_path, ["a cat"] * 10)


def submitted(directory: RunDirectory, *, seconds_ago: float = 0.0) -> None:
    submission = submissions.record_submission(directory, ["batchgen", "submit"], 1, ())
    text = submission.model_copy(update={"at": submission.at - seconds_ago}).model_dump_json()
    (directory.jobs / f"{submission.number:04d}.json").write_text(text)


def joined(directory: RunDirectory, owner: Owner, role: Role = "worker", ended: str = "") -> Path:
    path = submissions.join(directory, submissions.read_submissions(directory)[-1].number, role)
    path.write_text(json.dumps(asdict(owner)))
    if ended:
        submissions.leave(path, Departure.parse(ended))
    return path


def said(directory: RunDirectory) -> tuple[str, int]:
    status = read_status(directory)
    return status.state, status.exit_code


def test_a_run_that_was_never_submitted_is_stalled(run: Run) -> None:
    status = read_status(run.directory)
    told = (status.state, status.exit_code, status.cause)
    assert told == ("stalled", 5, "nothing was submitted yet")
    assert (status.pictures, status.pending, status.shards) == (10, 10, 3)
    assert status.next == f"batchgen resume {run.directory.root}"


def test_a_run_just_submitted_is_queued_and_one_whose_supervisor_never_came_is_stalled(
    run: Run,
) -> None:
    submitted(run.directory)
    assert said(run.directory) == ("queued", 3)
    durable.remove(run.directory.jobs / "0001.json")
    submitted(run.directory, seconds_ago=START_S + 1)
    assert said(run.directory) == ("stalled", 5)


def test_a_run_with_a_supervisor_and_no_worker_yet_is_queued(run: Run) -> None:
    submitted(run.directory, seconds_ago=999)
    joined(run.directory, ME, "supervisor")
    assert said(run.directory) == ("queued", 3)


def test_a_run_with_a_living_worker_runs(run: Run) -> None:
    submitted(run.directory)
    joined(run.directory, ME)
    joined(run.directory, GONE)
    status = read_status(run.directory)
    told = (status.state, status.exit_code, status.workers, status.cause)
    assert told == ("running", 3, 1, "1 worker")


def test_a_run_whose_workers_live_elsewhere_runs_as_far_as_is_known(run: Run) -> None:
    submitted(run.directory)
    joined(run.directory, ELSEWHERE)
    status = read_status(run.directory)
    told = (status.state, status.workers, status.cause)
    assert told == ("running", 0, "on elsewhere, which cannot be asked from here")


def test_a_run_whose_workers_died_is_stalled(run: Run) -> None:
    submitted(run.directory)
    joined(run.directory, GONE, "supervisor")
    joined(run.directory, GONE)
    assert said(run.directory) == ("stalled", 5)


def test_a_stalled_run_tells_why_its_last_workers_left(run: Run) -> None:
    submitted(run.directory)
    joined(run.directory, GONE, ended="SIGTERM of long ago")
    submitted(run.directory)
    joined(run.directory, ME, ended="nothing free: others work on the rest")
    joined(run.directory, ME, ended="SickDevice: node3")
    status = read_status(run.directory)
    left = "\n  a worker left: SickDevice: node3"
    told = (status.state, status.cause)
    assert told == ("stalled", f"shards are left, and no worker is alive{left}")


@pytest.mark.parametrize(
    ("cause", "code", "following"),
    [
        ("user", 3, "batchgen resume {}"),
        ("disk full", 3, "free space, then: batchgen resume {}"),
        ("inodes used up", 3, "remove files, then: batchgen resume {}"),
        ("quota used up", 3, "remove something of yours, then: batchgen resume {}"),
        ("file size limit", 3, "raise the limit, then: batchgen resume {}"),
        ("failure budget", 4, f"{SEE}: batchgen resume {{0}} --set run.failure_budget=SHARE"),
        ("audit", 3, f"{STRICTER}; to go on all the same: batchgen resume {{0}} --set {WARN}"),
        ("time limit", 3, "batchgen resume {}"),
        ("restarts", 3, "batchgen resume {}"),
    ],
)
def test_a_stopped_run_tells_its_cause_and_what_to_type(
    cause: StopCause, code: int, following: str, run: Run
) -> None:
    submitted(run.directory)
    joined(run.directory, GONE)
    ask_to_stop(run.directory, cause, "why")
    status = read_status(run.directory)
    assert (status.state, status.exit_code, status.cause) == ("stopped", code, f"{cause}: why")
    assert status.next == following.format(run.directory.root)


def test_a_run_asked_to_stop_runs_until_its_workers_have_left(run: Run) -> None:
    submitted(run.directory)
    joined(run.directory, ME)
    ask_to_stop(run.directory, "failure budget", "too many")
    status = read_status(run.directory)
    told = (status.state, status.exit_code, status.cause)
    assert told == ("running", 3, "1 worker; asked to stop: failure budget")


def test_a_finalized_run_is_complete_whatever_else_is_said(run: Run) -> None:
    submitted(run.directory)
    joined(run.directory, ME)
    ask_to_stop(run.directory, "user", "")
    for shard in range(3):
        published(run.directory, done(shard))
    assert said(run.directory) == ("running", 3)
    durable.write(run.directory.index, b"{}")
    assert said(run.directory) == ("complete", 0)


def test_a_finished_run_without_one_good_picture_is_no_success(run: Run) -> None:
    """However small it is: its failures are within every budget."""
    for shard, pictures in enumerate((4, 4, 2)):
        failures = {"exception": pictures}
        published(run.directory, done(shard, ok=0, failed=pictures, failures=failures, tar=None))
    durable.write(run.directory.index, b"{}")
    assert said(run.directory) == ("failed", 4)
    answer = ask("status", run.directory.root)
    assert answer.code == 4
    assert answer.out.startswith("failed: none of 10 pictures could be made\n")
    assert f"next: batchgen logs {run.directory.root} --failed; mend the cause" in answer.out
    assert "*.tar" not in answer.out
    assert ask("resume", run.directory.root).code == 4, "nothing is left to make"


def test_until_the_first_group_it_is_told_what_takes_time(run: Run) -> None:
    submitted(run.directory)
    (notes := Notes(joined(run.directory, ME))).enter("compiling", "3 of 12")
    status = read_status(run.directory)
    assert (status.state, status.cause) == ("running", "1 worker: compiling 3 of 12, 0 s")
    line = log_line(status, 0.0)
    assert line == "running  0/10 pictures  0%  0/3 shards  1 worker: compiling 3 of 12"
    notes.begin_group(0, 1, 2, 2)
    notes.wrote(2)
    status = read_status(run.directory)
    assert status.cause == "1 worker"
    line = log_line(replace(status, pictures_per_second=1.5, left_s=10 / 1.5), 2.0)
    rates = "120/min now  90.0/min on average  about 7 s left"
    assert line == f"running  0/10 pictures  0%  0/3 shards  {rates}  1 worker"


def test_a_finalized_run_from_which_a_shard_was_taken_away_is_not_complete(run: Run) -> None:
    durable.write(run.directory.index, b"{}")
    assert said(run.directory) == ("stalled", 5)


def test_done_failed_and_pending_add_up_to_the_plan(run: Run) -> None:
    """One shard published, one in progress."""
    failures = {"exception": 1}
    published(run.directory, done(0, ok=3, failed=1, failures=failures, group_s=6.0))
    write_group(PartialShard(run.directory, 1, 1, []), 2, failed=1)
    submitted(run.directory)
    joined(run.directory, ME)
    status = read_status(run.directory)
    assert (status.ok, status.failed, status.pending, status.in_progress) == (3, 1, 6, 2)
    assert (status.shards_done, status.failures) == (1, {"exception": 1})
    rates = (status.pictures_per_device_hour, status.pictures_per_second, status.left_s)
    assert rates == (1800.0, 0.5, 8.0)


def test_status_is_one_json_object_of_one_line(run: Run) -> None:
    told = read_status(run.directory).to_json()
    assert "\n" not in told
    assert set(json.loads(told)) == set(Status.__dataclass_fields__) - {"pictures"} | {"rows"}


@pytest.mark.slow
def test_status_of_a_run_with_many_finished_shards_opens_only_what_is_new(tmp_path: Path) -> None:
    """3,000 commits: the second look opens a handful of files."""
    run, shards = planned(tmp_path), 3000
    many = tuple(Shard(n, 1, n, 0) for n in range(shards + 2))
    plan = Plan(**dict(run.plan) | {"shards": many, "pictures": shards + 2})
    directory = run.directory
    directory.make_folders(shards + 2)
    published(directory, *(done(shard, ok=1) for shard in range(shards)))
    submitted(directory)
    joined(directory, ME)
    read_status(directory, plan)
    write_group(PartialShard(directory, shards, 1, []), 1)
    published(directory, done(shards + 1, ok=1))
    with opens(directory.root) as opened:
        status = read_status(directory, plan)
    assert (status.ok, status.pending, status.in_progress) == (shards + 1, 1, 1)
    assert len(opened) < 20, opened


def test_submissions_are_read_once_a_look(run: Run) -> None:
    for _ in range(3):
        submitted(run.directory)
        joined(run.directory, GONE)
    with opens(run.directory.root) as opened:
        assert read_status(run.directory).state == "stalled"
    records = sorted(path.name for path in opened if path.parent == run.directory.jobs)
    assert records == ["0001.json", "0002.json", "0003.json"]


@pytest.mark.parametrize("cause", ["user", "disk full", "failure budget", "inodes used up"])
def test_commands_can_be_pasted_also_if_the_run_has_a_name_of_two_words(
    cause: StopCause, tmp_path: Path
) -> None:
    (folder := tmp_path / "my runs; rm -r").mkdir()
    run = planned(folder)
    submitted(run.directory)
    root = shlex.quote(str(run.directory.root))
    assert read_status(run.directory).next == f"batchgen status {root} --watch"
    joined(run.directory, GONE)
    ask_to_stop(run.directory, cause, "why")
    told = read_status(run.directory).next
    assert (told.count(root), told.count("my runs")) == (told.count("batchgen "),) * 2


def test_a_supervisor_that_could_not_start_is_told_with_its_last_words(run: Run) -> None:
    submitted(run.directory, seconds_ago=START_S + 1)
    log = submissions.supervisor_log(run.directory, 1)
    log.write_text("Traceback (most recent call last):\n  File …\nImportError: no submitit here\n")
    status = read_status(run.directory)
    told = "the supervisor ended: ImportError: no submitit here"
    assert (status.state, told in status.cause) == ("stalled", True)


def test_what_audits_measured_is_told_with_the_time_they_took(run: Run) -> None:
    """Audits are no part of the pace of pictures, and of the time that is left they are."""
    submitted(run.directory)
    joined(run.directory, GONE)
    loss = Loss(3, 1, 1, 45.0, 30.0, 0.99, 0.9, device_s=2.0)
    published(run.directory, done(0, loss=loss))
    partial = PartialShard(run.directory, 1, 1, [])
    partial.end(b"", [record(4, audit="measured", psnr=65.0, ssim=0.99, audit_s=1.0), record(5)])
    status = replace(read_status(run.directory), used_s=9.0, wasted_s=5.0)
    assert status.loss == Loss(4, 1, 1, 50.0, 30.0, pytest.approx(0.99), 0.9, 3.0)
    assert (status.device_s, status.audit_s) == (2.0, 2.0)
    assert status.pictures_per_device_hour == 4 / 2.0 * 3600
    assert status.to_go_s == 6 * (2.0 + 2.0) / 4
    assert json.loads(status.to_json())["loss"]["psnr_worst"] == 30.0
    told = "\n".join(_status_lines(status))
    assert "9 s of devices used, 5 s of it not on published pictures, 2 s on audits" in told
    assert (
        "\n4 pictures also made without the cache: PSNR 50.0 dB on average, 30.0 at worst; "
        "SSIM 0.9900, 0.9000; 1 (25%) below audit.min_psnr\n"
        "1 picture was to be compared and could not be: audit_error in the records says why\n"
    ) in told


def test_a_run_without_an_audit_says_nothing_of_one(run: Run) -> None:
    submitted(run.directory)
    published(run.directory, done(0))
    told = ask("status", run.directory.root).out
    assert "on audits" not in told
    assert "without the cache" not in told
