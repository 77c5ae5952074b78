"""Status says what is done, who lives and what to type, from a few opened files."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from specimens import done, opens, planned, write_group

from batchgen import durable, submissions
from batchgen.claims import Owner
from batchgen.partial import Partial
from batchgen.plan import Plan, Shard
from batchgen.run import Run
from batchgen.status import START_S, Status, look
from batchgen.store import StopCause, Store
from batchgen.submissions import Role

ME = Owner.me()
GONE = replace(ME, started=1.0)
ELSEWHERE = Owner("elsewhere", 1, 1.0)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Ten pictures in three shards; nothing begun."""
    return planned(tmp_path, ["a cat"] * 10)


def submitted(store: Store, *, seconds_ago: float = 0.0) -> None:
    submission = submissions.record(store, ["batchgen", "submit"], 1, ())
    text = submission.model_copy(update={"at": submission.at - seconds_ago}).model_dump_json()
    (store.jobs / f"{submission.number:04d}.json").write_text(text)


def joined(store: Store, owner: Owner, role: Role = "worker", ended: str = "") -> None:
    path = submissions.join(store, submissions.submissions(store)[-1].number, role)
    path.write_text(json.dumps(asdict(owner)))
    if ended:
        submissions.leave(path, ended)


def said(store: Store) -> tuple[str, int]:
    status = look(store)
    return status.state, status.exit_code


def test_a_run_that_was_never_submitted_is_stalled(run: Run) -> None:
    status = look(run.store)
    assert (status.state, status.exit_code, status.cause) == ("stalled", 5, "nothing was submitted yet")
    assert (status.rows, status.pending, status.shards, status.next) == (10, 10, 3, f"batchgen resume {run.store.root}")


def test_a_run_just_submitted_is_queued_and_one_whose_supervisor_never_came_is_stalled(run: Run) -> None:
    submitted(run.store)
    assert said(run.store) == ("queued", 3)
    durable.remove(run.store.jobs / "0001.json")
    submitted(run.store, seconds_ago=START_S + 1)
    assert said(run.store) == ("stalled", 5)


def test_a_run_with_a_supervisor_and_no_worker_yet_is_queued(run: Run) -> None:
    submitted(run.store, seconds_ago=999)
    joined(run.store, ME, "supervisor")
    assert said(run.store) == ("queued", 3)


def test_a_run_with_a_living_worker_runs(run: Run) -> None:
    submitted(run.store)
    joined(run.store, ME)
    joined(run.store, GONE)
    status = look(run.store)
    assert (status.state, status.exit_code, status.workers, status.cause) == ("running", 3, 1, "1 workers")


def test_a_run_whose_workers_live_elsewhere_runs_as_far_as_is_known(run: Run) -> None:
    submitted(run.store)
    joined(run.store, ELSEWHERE)
    status = look(run.store)
    assert (status.state, status.workers, status.cause) == ("running", 0, "on elsewhere, which cannot be asked from here")


def test_a_run_whose_workers_died_is_stalled(run: Run) -> None:
    submitted(run.store)
    joined(run.store, GONE, "supervisor")
    joined(run.store, GONE)
    assert said(run.store) == ("stalled", 5)


def test_a_stalled_run_tells_why_its_last_workers_left(run: Run) -> None:
    submitted(run.store)
    joined(run.store, GONE, ended="SIGTERM of long ago")
    submitted(run.store)
    joined(run.store, ME, ended=submissions.NOTHING_FREE)
    joined(run.store, ME, ended="SickDevice: node3")
    status = look(run.store)
    assert (status.state, status.cause) == ("stalled", "shards are left, and no worker is alive\n  a worker left: SickDevice: node3")


@pytest.mark.parametrize(
    ("cause", "code", "following"),
    [
        ("user", 3, "batchgen resume {}"),
        ("disk full", 3, "free space, then: batchgen resume {}"),
        ("failure budget", 4, "see batchgen logs --failed; to go on all the same: batchgen resume {} --set run.failure_budget=SHARE"),
        ("time limit", 3, "batchgen resume {}"),
        ("restarts", 3, "batchgen resume {}"),
    ],
)
def test_a_stopped_run_tells_its_cause_and_what_to_type(cause: StopCause, code: int, following: str, run: Run) -> None:
    submitted(run.store)
    joined(run.store, GONE)
    run.store.ask_to_stop(cause, "why")
    status = look(run.store)
    assert (status.state, status.exit_code, status.cause) == ("stopped", code, f"{cause}: why")
    assert status.next == following.format(run.store.root)


def test_a_run_asked_to_stop_runs_until_its_workers_have_left(run: Run) -> None:
    submitted(run.store)
    joined(run.store, ME)
    run.store.ask_to_stop("failure budget", "too many")
    status = look(run.store)
    assert (status.state, status.exit_code, status.cause) == ("running", 3, "1 workers; asked to stop: failure budget")


def test_a_finalized_run_is_complete_whatever_else_is_said(run: Run) -> None:
    submitted(run.store)
    joined(run.store, ME)
    run.store.ask_to_stop("user", "")
    for shard in range(3):
        run.store.done(shard).write_bytes(done(shard).encode())
    assert said(run.store) == ("running", 3)
    durable.write(run.store.index, b"{}")
    assert said(run.store) == ("complete", 0)


def test_a_finalized_run_from_which_a_shard_was_taken_away_is_not_complete(run: Run) -> None:
    durable.write(run.store.index, b"{}")
    assert said(run.store) == ("stalled", 5)


def test_done_failed_and_pending_add_up_to_the_plan(run: Run) -> None:
    """One shard published, one in progress."""
    run.store.done(0).write_bytes(done(0, ok=3, failed=1, failures={"exception": 1}, group_s=6.0).encode())
    write_group(Partial(run.store, 1, 1, []), 2, failed=1)
    submitted(run.store)
    joined(run.store, ME)
    status = look(run.store)
    assert (status.ok, status.failed, status.pending, status.in_progress) == (3, 1, 6, 2)
    assert (status.shards_done, status.failures) == (1, {"exception": 1})
    assert (status.pictures_per_device_hour, status.pictures_per_second, status.left_s) == (1800.0, 0.5, 8.0)


def test_status_is_one_json_object_of_one_line(run: Run) -> None:
    told = look(run.store).to_json()
    assert "\n" not in told
    assert set(json.loads(told)) == set(Status.__dataclass_fields__)


def test_status_of_a_run_with_many_finished_shards_opens_only_what_is_new(tmp_path: Path) -> None:
    """3,000 commits: the second look opens a handful of files."""
    run, shards = planned(tmp_path), 3000
    store, plan = (
        run.store,
        Plan(**dict(run.plan) | {"shards": tuple(Shard(n, 1, n, 0) for n in range(shards + 2)), "pictures": shards + 2}),
    )
    store.make_folders(shards + 2)
    for shard in range(shards):
        store.done(shard).write_bytes(done(shard, ok=1).encode())
    submitted(store)
    joined(store, ME)
    look(store, plan)
    write_group(Partial(store, shards, 1, []), 1)
    store.done(shards + 1).write_bytes(done(shards + 1, ok=1).encode())
    with opens(store.root) as opened:
        status = look(store, plan)
    assert (status.ok, status.pending, status.in_progress) == (shards + 1, 1, 1)
    assert len(opened) < 20, opened
