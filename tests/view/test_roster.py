"""Status tells which workers live, wait or died in SLURM, as far as SLURM answers."""

import json
import os
import re
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from batchgen.run import job_arrays, submissions
from batchgen.run.departures import Departure
from batchgen.run.directory import RunDirectory
from batchgen.run.owner import Owner
from batchgen.run.run import Run
from batchgen.settings.site import Site
from batchgen.slurm.queue import Queue
from batchgen.view.status import Status, read_status
from tests.support.fake_squeue import BINARY, FAILS, FakeSqueue, line, record
from tests.support.rehearsal import ask
from tests.support.specimens import done, planned, published

SITE = Site(gpus_per_node=2, time="1:00", nodes=2)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Ten pictures in three shards, submitted to two nodes of two workers."""
    run = planned(tmp_path, ["a cat"] * 10)
    submissions.record_submission(run.directory, ["batchgen", "submit"], 4, site=SITE)
    return run


def joined(
    directory: RunDirectory, worker: int, job: str, ended: str = "", restarts: int = 0
) -> None:
    path = submissions.join(directory, 1, "worker", worker)
    path.write_text(json.dumps(asdict(Owner(f"node{job}", 1, 0.0, job, restarts))))
    os.utime(path, times=(began := time.time() - 100, began))
    if ended:
        submissions.leave(path, Departure.parse(ended))


def of(run: Run, job: str, state: str = "RUNNING", restarts: int = 0, reason: str = "None") -> str:
    return line(job, state, restarts, reason, f"batchgen:{run.plan.run}:1")


def said(run: Run) -> tuple[str, str]:
    status: Status = read_status(run.directory)
    return status.state, status.cause


def test_waiting_nodes_are_told_with_slurms_reason(run: Run, squeue: FakeSqueue) -> None:
    squeue.answer(
        [
            of(run, "1", "PENDING", 0, "Priority"),
            of(run, "2", "PENDING", 0, "ReqNodeNotAvail"),
            line("3", "PENDING"),
        ]
    )
    assert said(run) == ("queued", "2 nodes wait in SLURM (Priority, ReqNodeNotAvail)")
    assert read_status(run.directory).waiting == {"Priority": 1, "ReqNodeNotAvail": 1}


def test_elements_that_wait_are_counted_one_by_one_although_they_share_an_id(
    run: Run, squeue: FakeSqueue
) -> None:
    rows = [
        of(run, "1", "PENDING", 0, "Priority").replace("N/A", f"{element:<3}", 1)
        for element in range(3)
    ]
    squeue.answer(rows)
    assert said(run) == ("queued", "3 nodes wait in SLURM (Priority)")
    assert [job.name for job in Queue().jobs()] == ["1_0", "1_1", "1_2"]


def test_nodes_without_a_worker_yet_are_told(run: Run, squeue: FakeSqueue) -> None:
    squeue.answer([of(run, "1"), of(run, "2", "CONFIGURING")])
    assert said(run) == ("queued", "workers start or leave on 2 nodes")


def test_workers_that_live_and_nodes_that_wait_for_another_allocation_are_told(
    run: Run, squeue: FakeSqueue
) -> None:
    """Worker 2 and 3 died with their node, which waits."""
    for worker in range(4):
        joined(run.directory, worker, "1" if worker < 2 else "2")
    squeue.answer([of(run, "1"), of(run, "2", "PENDING", 1, "BeginTime")])
    assert said(run) == ("running", "2 workers; 1 node waits in SLURM (BeginTime)")
    status = read_status(run.directory)
    assert (status.workers, status.dead) == (2, 2)
    assert 200 <= status.used_s == status.wasted_s < 250


def test_devices_are_counted_with_all_ranks_of_a_worker(run: Run, squeue: FakeSqueue) -> None:
    """Two workers of two ranks, 100 s old; one of them made four pictures in six seconds."""
    submissions.record_submission(run.directory, ["batchgen", "resume"], 2, site=SITE, ranks=2)
    for worker in range(2):
        joined(run.directory, worker, "1")
    published(run.directory, done(0, ok=4, group_s=6.0))
    squeue.answer([of(run, "1")])
    status = read_status(run.directory)
    told = (status.device_s, status.pictures_per_device_hour, status.to_go_s)
    assert told == (12.0, 1200.0, 18.0)
    assert 400 <= status.used_s == status.wasted_s + 12.0 < 450
    rate = "1,200 pictures per device-hour, about 4 s left\n"
    used = "7 min of devices used, [67] min of it not on published pictures, about 18 s to go"
    assert re.search(rate + used, ask("status", run.directory.root).out)


def test_dead_workers_are_told_with_their_last_words(run: Run, squeue: FakeSqueue) -> None:
    joined(run.directory, 0, "1", "nothing free: others work on the rest")
    joined(run.directory, 1, "1")
    joined(run.directory, 1, "1", restarts=1)
    submissions.log_file(run.directory, 1, 1).write_text("painting\nBus error\n")
    why = "a worker died (exit code 135), and 6 allocations in a row brought no new picture"
    job_arrays.give_up(run.directory, 1, 0, f"element 0 on node1: {why}")
    squeue.answer([])
    state, cause = said(run)
    assert state == "stalled"
    assert "worker 1 died on node1: Bus error" in cause
    assert why in cause
    assert read_status(run.directory).dead == 1


def test_no_worker_is_called_dead_while_squeue_is_silent(run: Run, squeue: FakeSqueue) -> None:
    squeue.answer(FAILS)
    state, cause = said(run)
    assert state == "queued"
    assert "squeue failed: slurm_load_jobs error: Unable to contact slurm controller" in cause
    joined(run.directory, 0, "1")
    state, cause = said(run)
    assert state == "running"
    assert cause.startswith("on node1, squeue failed: ")


def test_a_run_whose_workers_all_left_is_stalled_even_if_squeue_is_silent(
    run: Run, squeue: FakeSqueue
) -> None:
    squeue.answer(FAILS)
    for worker in range(4):
        joined(run.directory, worker, "1", "PlanChanged: the manifest is another")
    left = "\n  a worker left: PlanChanged: the manifest is another"
    assert said(run) == ("stalled", f"shards are left, and no worker is alive{left}")


def test_squeue_is_not_asked_about_a_run_that_was_never_on_a_cluster(
    tmp_path: Path, squeue: FakeSqueue
) -> None:
    run = planned(tmp_path, ["a cat"] * 10)
    submissions.record_submission(run.directory, ["batchgen", "submit"], 1)
    read_status(run.directory)
    assert squeue.asked == 0


def test_one_empty_listing_makes_nobody_dead_and_nobody_starts_a_second_array(
    run: Run, squeue: FakeSqueue
) -> None:
    """Element 0 works, and element 1 waits for a node."""
    job_arrays.record_arrays(run.directory, 1, {"7": 2})
    for worker in range(2):
        joined(run.directory, worker, "8")
    squeue.answer([])
    waits = record("7", "PENDING", "7", "1").replace("abc", run.plan.run)
    squeue.controller(record("8", "RUNNING", "7", "0").replace("abc", run.plan.run), waits)
    assert said(run) == ("running", "2 workers; 1 node waits in SLURM (Priority)")
    assert read_status(run.directory).dead == 0
    squeue.controller("echo slurm_load_jobs error: Socket timed out >&2; exit 1")
    state, cause = said(run)
    assert (state, cause.startswith("on node8, squeue does not list job 7, and")) == (
        "running",
        True,
    )
    answer = ask("resume", run.directory.root)
    assert (answer.code, "is running" in answer.err) == (2, True)


def test_an_squeue_that_prints_no_text_is_told_and_proves_nothing(
    run: Run, squeue: FakeSqueue
) -> None:
    squeue.answer(BINARY)
    state, cause = said(run)
    assert (state, "squeue printed a line that cannot be read" in cause) == ("queued", True)


def test_cancelling_finds_jobs_that_one_listing_lacks(run: Run, squeue: FakeSqueue) -> None:
    job_arrays.record_arrays(run.directory, 1, {"7": 2})
    squeue.answer([])
    squeue.controller(record("7", "PENDING", "7", "0-1").replace("abc", run.plan.run))
    script = squeue.folder / "scancel"
    script.write_text(f"#!/bin/sh\necho $* > {squeue.folder}/cancelled\n")
    script.chmod(0o755)
    assert ask("cancel", run.directory.root, "--now").code == 0
    assert (squeue.folder / "cancelled").read_text() == "7_0 7_1\n"


def test_the_stacks_of_a_hung_worker_are_no_last_words(run: Run, squeue: FakeSqueue) -> None:
    """A hang that let no thread run was ended by faulthandler, which prints stacks alone."""
    joined(run.directory, 0, "1")
    stacks = 'Thread 0x7f01 (most recent call first):\n  File "<frozen runpy>", line 88 in _run\n'
    log = submissions.log_file(run.directory, 1, 0)
    log.write_text(f"painting\nTimeout (0:10:05)!\n{stacks}")
    squeue.answer([])
    assert "worker 0 died on node1: Timeout (0:10:05)!" in said(run)[1]


def test_an_element_without_a_worker_is_told_once_with_what_srun_said(
    run: Run, squeue: FakeSqueue
) -> None:
    job_arrays.record_arrays(run.directory, 1, {"7": 2})
    why = "no worker came in 3 allocations (exit code 1): srun: error: Invalid --cpu-bind"
    for element in range(2):
        job_arrays.give_up(run.directory, 1, element, f"element {element} on node1: {why}")
        log = submissions.batch_log(run.directory, 1, f"7_{element}")
        log.parent.mkdir(exist_ok=True)
        log.write_text(f"batchgen: element {element} ends: {why}\n")
    squeue.answer([])
    state, cause = said(run)
    assert (state, cause.count("Invalid --cpu-bind"), cause.count("7_")) == ("stalled", 2, 0)


def test_what_devices_cost_is_told_where_the_site_has_a_price(run: Run, squeue: FakeSqueue) -> None:
    priced = SITE.model_copy(update={"price_per_gpu_hour": 36.0})  # a cent a second
    submissions.record_submission(run.directory, ["batchgen", "resume"], 1, site=priced)
    joined(run.directory, 0, "1")
    published(run.directory, done(0, ok=4, group_s=6.0))
    squeue.answer([of(run, "1")])
    status = read_status(run.directory)
    assert status.cost == pytest.approx(status.used_s * 0.01)
    assert status.cost_to_go == pytest.approx(9.0 * 0.01)
    told = ask("status", run.directory.root).out
    assert re.search(r"of devices used for 1\.\d\d, .*, about 9 s to go for 0\.09\n", told)
