"""squeue may fail, be empty, lag or leave jobs out.

No job that lives is ever taken for dead, and nobody waits without end.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from batchgen import slurm
from batchgen.errors import SchedulerSilent
from batchgen.run.owner import Owner
from batchgen.shard.claims import Claims
from batchgen.slurm import commands, queue
from batchgen.slurm.queue import FAILURES, Queue, jobs_of
from tests.support.fake_squeue import (
    ALIVE,
    BINARY,
    FAILS,
    FORGOTTEN,
    HANGS,
    ITS,
    MINE,
    NONSENSE,
    SELF,
    FakeSqueue,
    line,
    record,
)
from tests.support.specimens import new_directory


@pytest.fixture
def in_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", MINE)
    monkeypatch.setenv("SLURMD_NODENAME", "node1")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that goes on only when a test calls it."""
    now = [1000.0]
    monkeypatch.setattr(queue.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(queue.random, "uniform", lambda low, _high: low)

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


UNKNOWN = "unknown unknown unknown unknown"
# What squeue answers, and what follows about ITS job from four listings, a minute apart.
TABLE = {
    "it runs": ([[SELF, ALIVE]], "alive alive alive alive"),
    "it is gone": ([[SELF]], "unknown dead dead dead"),
    "it is there again after one listing without it": (
        [[SELF], [SELF, ALIVE], [SELF], [SELF]],
        "unknown alive unknown dead",
    ),
    "every second listing lacks it": ([[SELF], [SELF, ALIVE]] * 2, "unknown alive unknown alive"),
    "the asking job is not listed": ([[ALIVE], [line("300")]], UNKNOWN),
    "the listing is empty": ([[]], UNKNOWN),
    "squeue fails": ([FAILS], UNKNOWN),
    "squeue fails between two listings without it": (
        [[SELF], FAILS, FAILS, [SELF]],
        "unknown unknown unknown dead",
    ),
    "squeue hangs": ([HANGS], UNKNOWN),
    "squeue prints nonsense": ([NONSENSE], UNKNOWN),
    "squeue prints what is no text": ([BINARY], UNKNOWN),
    "it was requeued and waits": ([[SELF, line(ITS, "PENDING", 1)]], "dead dead dead dead"),
    "it was requeued and runs": ([[SELF, line(ITS, "RUNNING", 1)]], "dead dead dead dead"),
    "the listing is older than its start": (
        [[SELF, line(ITS, "PENDING")], [SELF, ALIVE]],
        "unknown alive alive alive",
    ),
    "it is ending": ([[SELF, line(ITS, "COMPLETING")]], "alive alive alive alive"),
    "it is suspended": ([[SELF, line(ITS, "SUSPENDED")]], "alive alive alive alive"),
    "it has ended and is still listed": (
        [[SELF, line(ITS, "NODE_FAIL")]],
        "unknown dead dead dead",
    ),
}


# Each of its listings is waited for until time is up.
HANGING = pytest.param("squeue hangs", marks=pytest.mark.slow)


@pytest.mark.usefixtures("in_a_job")
@pytest.mark.parametrize("name", [HANGING, *(name for name in TABLE if name != "squeue hangs")])
def test_what_follows_from_four_listings(
    name: str, squeue: FakeSqueue, clock: Callable[[float], None]
) -> None:
    answers, lives = TABLE[name]
    squeue.answer(*answers)
    queue, found = Queue(poll_s=60), []
    for _ in range(4):
        found.append(queue.life(ITS, 0))
        clock(60)
    assert " ".join(found) == lives


@pytest.mark.usefixtures("in_a_job")
def test_squeue_is_called_once_a_minute_however_many_ask(
    squeue: FakeSqueue, clock: Callable[[float], None]
) -> None:
    squeue.answer([SELF, ALIVE])
    queue = Queue(poll_s=60)
    for second in range(121):
        assert {queue.life(ITS, 0), queue.life(MINE, 0)} == {"alive"}
        assert squeue.asked == second // 60 + 1
        clock(1)


def test_a_question_later_than_the_listing_waits_for_the_next_listing(
    squeue: FakeSqueue, clock: Callable[[float], None]
) -> None:
    """A listing cannot lack a job that began after it."""
    squeue.answer([line("300")], [line("300"), ALIVE])
    queue = Queue(poll_s=60, enough=1)
    assert queue.life("300", 0) == "alive"
    clock(30)
    assert (queue.life(ITS, 0), queue.wait_s()) == ("unknown", 30)
    clock(30)
    assert (queue.life(ITS, 0), queue.wait_s()) == ("alive", None)


@pytest.mark.usefixtures("in_a_job")
@pytest.mark.parametrize("answer", [FAILS, [], [ALIVE]])
def test_nobody_waits_for_an_answer_without_end_and_the_reason_is_known(
    answer: list[str] | str, squeue: FakeSqueue, clock: Callable[[float], None]
) -> None:
    squeue.answer(answer)
    queue, waits = Queue(poll_s=60), 0
    queue.life(ITS, 0)
    while (seconds := queue.wait_s()) is not None:
        waits += 1
        clock(seconds)
        assert queue.life(ITS, 0) == "unknown"
    assert waits == FAILURES - 1
    unlisted = f"does not list job {MINE}, which asks"
    silent = "Unable to contact slurm controller"
    assert (silent if answer is FAILS else unlisted) in queue.trouble


def test_where_there_is_no_squeue_nobody_waits_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    queue = Queue()
    assert (queue.life(ITS, 0), queue.wait_s()) == ("unknown", None)
    assert queue.trouble.startswith("squeue: not found")


@pytest.mark.usefixtures("in_a_job")
def test_a_worker_takes_a_shard_from_a_job_that_is_gone_and_from_no_other(
    squeue: FakeSqueue, clock: Callable[[float], None], tmp_path: Path
) -> None:
    directory = new_directory(tmp_path, 5)
    owners = [
        Owner("node2", 1, 0.0, "300"),  # a job that is gone
        Owner("node2", 2, 0.0, ITS),  # a job that runs
        Owner("node3", 3, 0.0, "400"),  # a job that was requeued
        Owner("away", 4, 0.0),  # a person's process on another machine
        Owner("node4", 5, 0.0, "500"),  # a job that is gone
    ]
    for shard, owner in enumerate(owners):
        directory.claim(shard, 1).write_text(json.dumps({"owner": asdict(owner), "at": 0.0}))
    squeue.answer([SELF, ALIVE, line("400", "PENDING", 1)])
    claims = Claims(directory, 5, 0, queue=Queue(poll_s=60))
    taken = []
    while True:
        if claim := claims.next():
            taken.append((claim.shard, claim.attempt))
        elif (seconds := claims.wait_s()) is not None:
            clock(seconds)
        else:
            break
    assert taken == [(2, 2), (0, 2), (4, 2)]
    assert squeue.asked == 2


def test_a_process_of_this_node_whose_incarnation_is_over_counts_as_dead(
    squeue: FakeSqueue,
) -> None:
    """The job was requeued, and a process of its first incarnation still runs here."""
    squeue.answer([line(ITS, "RUNNING", 1)])
    left_over = replace(Owner.me(), job=ITS)
    assert (left_over.life(), left_over.life(Queue())) == ("alive", "dead")


def test_the_owner_is_the_job_and_how_often_it_was_requeued(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURMD_NODENAME", "node9")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    me = Owner.me()
    assert (me.host, me.job, me.restarts) == ("node9", "7", 3)
    monkeypatch.delenv("SLURMD_NODENAME")
    assert (Owner.me().job, Owner.me().restarts) == ("", 0), "salloc's shell is not the job"


@pytest.mark.parametrize(
    ("start", "end", "now", "expected"),
    [
        ("1000", "4600", 1010.0, 4600.0),
        ("1000", "4600", 5200.0, 8800.0),  # this machine's clock is ahead
        ("1000", "4600", -2600.0, 1000.0),  # this machine's clock is behind
        ("1000", "NONE", 1010.0, None),  # no limit
        ("N/A", "4600", 1010.0, None),
        ("", "", 1010.0, None),
    ],
)
def test_the_end_of_a_job_is_given_by_this_machines_clock(
    start: str, end: str, now: float, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_START_TIME", start)
    monkeypatch.setenv("SLURM_JOB_END_TIME", end)
    assert slurm.end_time(now) == expected


EXPECTED = ("4711_0", "4711_1", "4711_2", "4711_3")
NO_CONTROLLER = "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1"


def new_queue(*jobs: str) -> Queue:
    """As a person's look has it, who wants to know about these jobs of the array."""
    queue = Queue(enough=1)
    queue.expect(EXPECTED)
    for job in jobs:
        queue.notice(job, 0)
    return queue


def test_a_listing_that_lacks_what_it_should_have_is_checked_with_the_controller(
    squeue: FakeSqueue,
) -> None:
    """Element 0 is listed, 1 has ended, 2 and 3 have not started and are one job to SLURM."""
    listed = line("4712", comment="batchgen:abc:1", element=("4711", "0"))
    squeue.answer([listed])
    squeue.controller(
        record("4711", "PENDING", "4711", "2-3%2"),
        record("4713", "FAILED", "4711", "1"),
        record("4712", "RUNNING", "4711", "0"),
    )
    queue = new_queue("4712", "4713")
    found = {job.name: job.state for job in queue.jobs()}
    assert found == {"4711_0": "RUNNING", "4711_2": "PENDING", "4711_3": "PENDING"}
    assert {name: job.node for name, job in queue.ended.items()} == {"4711_1": "node7"}
    assert len(jobs_of("abc", queue)) == 3
    assert (queue.trouble, queue.life("4712", 0), queue.life("4713", 0)) == ("", "alive", "dead")


def test_an_empty_listing_proves_nothing_unless_the_controller_has_forgotten_the_jobs(
    squeue: FakeSqueue,
) -> None:
    squeue.answer([])
    squeue.controller(*(record(f"471{n}", "RUNNING", "4711", str(n)) for n in range(4)))
    running = new_queue("4712")
    assert [job.name for job in running.jobs()] == list(EXPECTED)
    assert running.life("4712", 0) == "alive"

    squeue.controller(NO_CONTROLLER)
    silent = new_queue("4712")
    assert (silent.jobs(), silent.life("4712", 0)) == ([], "unknown")
    told = "squeue does not list job 4711, and scontrol failed: slurm_load_jobs error: Unable"
    assert silent.trouble.startswith(told)

    squeue.controller(FORGOTTEN)
    gone = new_queue("4712")
    assert (gone.jobs(), gone.life("4712", 0), gone.trouble) == ([], "dead", "")


def test_the_controller_is_not_asked_about_a_listing_that_lacks_nothing(squeue: FakeSqueue) -> None:
    squeue.answer([line("4712", element=("4711", "0")), line("4720")])
    queue = Queue(enough=1)
    queue.expect(["4711_0", "4720"])
    assert len(queue.jobs()) == 2
    assert not (squeue.folder / "controlled").exists()


@pytest.mark.parametrize("answer", [NONSENSE, BINARY])
def test_what_squeue_printed_is_shown_escaped(answer: str, squeue: FakeSqueue) -> None:
    squeue.answer(answer)
    with pytest.raises(SchedulerSilent, match="squeue printed a line that cannot be read") as told:
        commands.list_jobs()
    assert str(told.value).isprintable()


def test_elements_are_named_as_people_type_them(squeue: FakeSqueue) -> None:
    comment = "batchgen:abc:1 for the accountants"
    squeue.answer([line("4712", "PENDING", 0, "JobHeldUser", comment, element=("4711", "3"))])
    (job,) = commands.list_jobs()
    assert (job.id, job.name, job.waits) == ("4712", "4711_3", True)
    assert (job.reason, job.comment) == ("JobHeldUser", comment)


def test_an_squeue_that_fails_is_told_with_its_own_words(squeue: FakeSqueue) -> None:
    squeue.answer(FAILS)
    expected = "squeue failed: slurm_load_jobs error: Unable to contact"
    with pytest.raises(SchedulerSilent, match=expected):
        commands.list_jobs()
