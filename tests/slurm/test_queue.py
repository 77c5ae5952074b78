"""squeue may fail, be empty, lag or leave jobs out: nobody who lives is ever taken for dead, and nobody waits without end."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from batchgen import slurm
from batchgen.errors import SchedulerSilent
from batchgen.run.owner import Owner
from batchgen.shard.claims import Claims
from batchgen.slurm import commands, queue
from batchgen.slurm.queue import FAILURES, Queue
from tests.support.fake_squeue import (
    ALIVE,
    FAILS,
    HANGS,
    ITS,
    MINE,
    NONSENSE,
    SELF,
    FakeSqueue,
    line,
)
from tests.support.specimens import new_store


@pytest.fixture
def in_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", MINE)
    monkeypatch.setenv("SLURMD_NODENAME", "node1")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time that passes only when told to."""
    now = [1000.0]
    monkeypatch.setattr(queue.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(queue.random, "uniform", lambda low, _high: low)

    def passes(seconds: float) -> None:
        now[0] += seconds

    return passes


TABLE = {
    "it runs": ([[SELF, ALIVE]], "alive alive alive alive"),
    "it is gone": ([[SELF]], "unknown dead dead dead"),
    "it is there again after one listing without it": (
        [[SELF], [SELF, ALIVE], [SELF], [SELF]],
        "unknown alive unknown dead",
    ),
    "every second listing lacks half": ([[SELF], [SELF, ALIVE]] * 2, "unknown alive unknown alive"),
    "half is listed, and not who asks": (
        [[ALIVE], [line("300")]],
        "unknown unknown unknown unknown",
    ),
    "the listing is empty": ([[]], "unknown unknown unknown unknown"),
    "squeue fails": ([FAILS], "unknown unknown unknown unknown"),
    "squeue fails between two listings without it": (
        [[SELF], FAILS, FAILS, [SELF]],
        "unknown unknown unknown dead",
    ),
    "squeue hangs": ([HANGS], "unknown unknown unknown unknown"),
    "squeue says nonsense": ([NONSENSE], "unknown unknown unknown unknown"),
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


@pytest.mark.usefixtures("in_a_job")
@pytest.mark.parametrize("name", TABLE)
def test_what_follows_from_listings(
    name: str, squeue: FakeSqueue, clock: Callable[[float], None]
) -> None:
    """Four listings, a minute apart."""
    answers, lives = TABLE[name]
    squeue.answer(*answers)
    queue, told = Queue(poll_s=60), []
    for _ in range(4):
        told.append(queue.life(ITS, 0))
        clock(60)
    assert " ".join(told) == lives


@pytest.mark.usefixtures("in_a_job")
def test_squeue_is_asked_once_a_minute_however_many_ask(
    squeue: FakeSqueue, clock: Callable[[float], None]
) -> None:
    squeue.answer([SELF, ALIVE])
    queue = Queue(poll_s=60)
    for second in range(121):
        assert {queue.life(ITS, 0), queue.life(MINE, 0)} == {"alive"}
        assert squeue.asked == second // 60 + 1
        clock(1)


def test_a_question_that_is_younger_than_the_listing_waits_for_the_next(
    squeue: FakeSqueue, clock: Callable[[float], None]
) -> None:
    """A job that began after the listing is not missing in it."""
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
    assert (
        "Unable to contact slurm controller" in queue.trouble
        or f"does not list job {MINE}, which asks" in queue.trouble
    )


def test_where_there_is_no_squeue_nobody_waits_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    queue = Queue()
    assert (queue.life(ITS, 0), queue.wait_s()) == ("unknown", None)
    assert queue.trouble.startswith("squeue: not found")


@pytest.mark.usefixtures("in_a_job")
def test_a_worker_takes_a_shard_from_a_job_that_is_gone_and_from_no_other(
    squeue: FakeSqueue, clock: Callable[[float], None], tmp_path: Path
) -> None:
    """Shards 0 and 4 are jobs' that are gone, 1 a running one's, 2 a requeued one's, 3 a person's on another machine."""
    directory = new_store(tmp_path, 5)
    for shard, owner in enumerate(
        [
            Owner("node2", 1, 0.0, "300"),
            Owner("node2", 2, 0.0, ITS),
            Owner("node3", 3, 0.0, "400"),
            Owner("away", 4, 0.0),
            Owner("node4", 5, 0.0, "500"),
        ]
    ):
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
    """An orphan beside its successor."""
    squeue.answer([line(ITS, "RUNNING", 1)])
    me = Owner.me()
    orphan = Owner(me.host, me.pid, me.started, ITS, 0)
    assert (orphan.life(), orphan.life(Queue())) == ("alive", "dead")


def test_the_owner_is_the_job_and_how_often_it_was_requeued(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in [
        ("SLURM_JOB_ID", "7"),
        ("SLURMD_NODENAME", "node9"),
        ("SLURM_RESTART_COUNT", "3"),
    ]:
        monkeypatch.setenv(name, value)
    me = Owner.me()
    assert (me.host, me.job, me.restarts) == ("node9", "7", 3)
    monkeypatch.delenv("SLURMD_NODENAME")
    assert (Owner.me().job, Owner.me().restarts) == ("", 0), "salloc's shell is not the job"


@pytest.mark.parametrize(
    ("start", "end", "now", "told"),
    [
        ("1000", "4600", 1010.0, 4600.0),
        ("1000", "4600", 5200.0, 8800.0),  # this machine's clock is an hour late
        ("1000", "4600", -2600.0, 1000.0),  # or early
        ("1000", "NONE", 1010.0, None),  # no limit
        ("N/A", "4600", 1010.0, None),
        ("", "", 1010.0, None),
    ],
)
def test_the_end_of_a_job_is_told_by_this_machines_clock(
    start: str, end: str, now: float, told: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_START_TIME", start)
    monkeypatch.setenv("SLURM_JOB_END_TIME", end)
    assert slurm.end_time(now) == told


def test_elements_are_named_as_people_type_them(squeue: FakeSqueue) -> None:
    squeue.answer(
        [
            f"{'4712':<24}{'4711':<24}{'3':<24}{'PENDING':<24}{0:<12}{'JobHeldUser':<80}{'batchgen:abc:1 for the accountants':<240}"
        ]
    )
    (job,) = commands.list_jobs()
    assert (job.id, job.name, job.waits, job.reason, job.comment) == (
        "4712",
        "4711_3",
        True,
        "JobHeldUser",
        "batchgen:abc:1 for the accountants",
    )
    squeue.answer(FAILS)
    with pytest.raises(
        SchedulerSilent, match="squeue failed: slurm_load_jobs error: Unable to contact"
    ):
        commands.list_jobs()
