"""One worker gets a shard. Shards are taken from the dead and the gone, never from the living."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from batchgen import durable
from batchgen.run.directory import RunDirectory
from batchgen.run.owner import Owner
from batchgen.shard.claims import Claim, Claims, read_owner
from batchgen.shard.partial_shard import PartialShard
from tests.support.specimens import done, new_directory, write_group

SHARDS = 6


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return new_directory(tmp_path, SHARDS)


@pytest.fixture(scope="module")
def dead() -> Owner:
    """A process that was and is no more."""
    process = subprocess.Popen([sys.executable, "-Sc", "input()"], stdin=subprocess.PIPE)
    owner = replace(Owner.me(), pid=process.pid)
    process.communicate()
    return owner


def claimed_by(directory: RunDirectory, shard: int, owner: Owner, attempt: int = 1) -> Claim:
    directory.claim(shard, attempt).write_text(json.dumps({"owner": asdict(owner), "at": 0.0}))
    return Claim(directory, shard, attempt)


def every(claims: Claims) -> list[tuple[int, int]]:
    """Shards and attempts until nothing is free; at most 100, should it steal from itself."""
    return [(claim.shard, claim.attempt) for claim in islice(iter(claims.next, None), 100)]


def test_of_many_threads_each_shard_goes_to_one(tmp_path: Path) -> None:
    directory, barrier = new_directory(tmp_path, 40), threading.Barrier(8)

    def take(_: int) -> list[tuple[int, int]]:
        claims = Claims(directory, 40, start=0)
        barrier.wait()
        return every(claims)

    with ThreadPoolExecutor(8) as threads:
        taken = sorted(claim for claims in threads.map(take, range(8)) for claim in claims)
    assert taken == [(shard, 1) for shard in range(40)]


def take_all(root: Path, ready: Any, answer: Any) -> None:
    claims = Claims(RunDirectory(root), SHARDS, start=0)
    ready.wait()
    answer.put(every(claims))
    ready.wait()  # no process ends while another still looks


def test_of_many_processes_each_shard_goes_to_one(directory: RunDirectory) -> None:
    context = multiprocessing.get_context("fork")
    ready, answer = context.Barrier(4), context.SimpleQueue()
    processes = [
        context.Process(target=take_all, args=(directory.root, ready, answer)) for _ in range(4)
    ]
    for process in processes:
        process.start()
    taken = sorted(claim for _ in processes for claim in answer.get())
    for process in processes:
        process.join()
    assert taken == [(shard, 1) for shard in range(SHARDS)]


@pytest.mark.parametrize("start", range(SHARDS))
def test_from_any_start_all_shards_are_covered_and_the_start_comes_first(
    start: int, directory: RunDirectory
) -> None:
    taken = [shard for shard, _ in every(Claims(directory, SHARDS, start))]
    assert taken == [*range(start, SHARDS), *range(start)]


def test_a_shard_that_is_done_is_not_handed_out(directory: RunDirectory, dead: Owner) -> None:
    """Its owner died after the commit."""
    claimed_by(directory, 2, dead)
    directory.done(2).write_bytes(done(2).encode())
    claims = Claims(directory, SHARDS, start=0)
    assert sorted(every(claims)) == [(shard, 1) for shard in range(SHARDS) if shard != 2]
    assert claims.unfinished() == [0, 1, 3, 4, 5]


def test_shards_of_the_dead_are_taken_last_and_their_claims_stay(
    directory: RunDirectory, dead: Owner
) -> None:
    claimed_by(directory, 0, dead)
    before = directory.claim(0, 1).read_bytes()
    fresh = [(shard, 1) for shard in range(1, SHARDS)]
    assert every(Claims(directory, SHARDS, start=0)) == [*fresh, (0, 2)]
    assert directory.claim(0, 1).read_bytes() == before
    assert read_owner(directory, 0, 2) == Owner.me()


@pytest.mark.parametrize("steal", [False, True])
def test_nothing_is_taken_from_the_living(steal: bool, directory: RunDirectory) -> None:
    claimed_by(directory, 0, Owner.me())
    assert (0, 2) not in every(Claims(directory, SHARDS, 0, steal=steal))


@pytest.mark.parametrize("steal", [False, True])
def test_shards_of_owners_on_other_machines_are_taken_only_with_steal(
    steal: bool, directory: RunDirectory
) -> None:
    claimed_by(directory, 0, Owner("elsewhere", 1, 0.0))
    assert ((0, 2) in every(Claims(directory, SHARDS, 0, steal=steal))) == steal


def test_a_released_shard_is_free_whoever_had_it(directory: RunDirectory) -> None:
    for shard, owner in enumerate([Owner.me(), Owner("elsewhere", 1, 0.0)]):
        claimed_by(directory, shard, owner).release()
    assert {(0, 2), (1, 2)} <= set(every(Claims(directory, SHARDS, 0)))


def test_only_the_last_attempt_decides_whether_a_shard_is_free(
    directory: RunDirectory, dead: Owner
) -> None:
    claimed_by(directory, 0, dead).release()
    claimed_by(directory, 0, Owner.me(), attempt=2)
    claimed_by(directory, 1, Owner.me())
    claimed_by(directory, 1, dead, attempt=2)
    taken = every(Claims(directory, SHARDS, 0))
    assert [claim for claim in taken if claim[0] < 2] == [(1, 3)]


def test_of_many_who_take_a_dead_owners_shard_one_gets_it(
    directory: RunDirectory, dead: Owner
) -> None:
    for shard in range(SHARDS):
        claimed_by(directory, shard, dead)

    def take(start: int) -> list[tuple[int, int]]:
        return every(Claims(directory, SHARDS, start))

    with ThreadPoolExecutor(4) as threads:
        taken = sorted(claim for claims in threads.map(take, range(4)) for claim in claims)
    assert taken == [(shard, 2) for shard in range(SHARDS)]


def test_a_process_is_alive_until_it_ends_also_as_a_zombie(dead: Owner) -> None:
    process = subprocess.Popen([sys.executable, "-Sc", "input()"], stdin=subprocess.PIPE)
    import psutil

    owner = Owner(socket.gethostname(), process.pid, psutil.Process(process.pid).create_time())
    assert owner.life() == "alive"
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert owner.life() == "dead", "a zombie works no more"
    process.communicate()
    assert (owner.life(), dead.life()) == ("dead", "dead")


def test_another_process_with_the_same_number_is_not_the_owner() -> None:
    me = Owner.me()
    assert me.life() == "alive"
    assert replace(me, started=me.started - 100).life() == "dead"
    assert replace(me, host="elsewhere").life() == "unknown"


def test_an_owner_stops_when_a_later_attempt_or_a_commit_exists(directory: RunDirectory) -> None:
    first, second = claimed_by(directory, 0, Owner.me()), Claim(directory, 0, 2)
    assert not first.superseded()
    claimed_by(directory, 0, Owner.me(), attempt=2)
    assert (first.superseded(), second.superseded()) == (True, False)
    directory.done(0).write_bytes(b"")
    assert second.superseded()


def test_deaths_are_the_open_groups_of_attempts_that_were_not_released(
    directory: RunDirectory,
) -> None:
    """Attempts 1, 3 and 4 died in two groups, none, one; 2 was released; 5 died without files."""
    for attempt, open_groups in enumerate([[0, 2], [0], [], [4]], start=1):
        claimed_by(directory, 0, Owner.me(), attempt)
        partial = PartialShard(directory, 0, attempt, [])
        write_group(partial, 1, begin=False)
        for at in open_groups:
            partial.begin(at + 1, 2)
    Claim(directory, 0, 2).release()
    claimed_by(directory, 0, Owner.me(), attempt=5)
    claim = Claim(directory, 0, 6)
    assert [[entry.at for entry in flight] for flight in claim.deaths()] == [[1, 3], [5]]
    assert claim.earlier == [1, 2, 3, 4, 5]


def test_an_attempt_that_said_why_it_ended_is_no_death_and_its_word_counts(
    directory: RunDirectory,
) -> None:
    """This holds wherever it ran. In SLURM, the batch script need not say that it died."""
    owners = [Owner.me(), Owner("node1", 1, 0.0, "4711", 1), Owner.me()]
    for attempt, owner in enumerate(owners, start=1):
        claimed_by(directory, 0, owner, attempt)
        partial = PartialShard(directory, 0, attempt, [])
        partial.begin(4, 2)
        if attempt < 3:
            partial.judge(4, 3 - attempt, (16, 16), "exception", f"attempt {attempt}")
    claim = Claim(directory, 0, 4)
    said = [(entry.at, entry.count, entry.why) for entry in claim.verdicts()]
    assert said == [(4, 2, "attempt 1"), (4, 1, "attempt 2")]
    assert [[entry.at for entry in flight] for flight in claim.deaths()] == [[4]]


def test_a_verdict_that_was_not_written_to_its_end_is_a_death_like_any(
    directory: RunDirectory,
) -> None:
    claimed_by(directory, 0, Owner.me(), 1)
    partial = PartialShard(directory, 0, 1, [])
    partial.begin(4, 2)
    begun = partial.path("journal").read_bytes()
    partial.judge(4, 2, (16, 16), "exception", "why")
    whole = partial.path("journal").read_bytes()
    for length in range(len(begun), len(whole)):
        partial.path("journal").write_bytes(whole[:length])
        assert (len(Claim(directory, 0, 2).deaths()), Claim(directory, 0, 2).verdicts()) == (1, [])
    partial.path("journal").write_bytes(whole)
    assert (Claim(directory, 0, 2).deaths(), len(Claim(directory, 0, 2).verdicts())) == ([], 1)


def test_a_slurm_jobs_death_is_one_where_its_batch_script_said_so(directory: RunDirectory) -> None:
    """Nodes fail and jobs are preempted: that says nothing of the pictures in flight."""
    for attempt in (1, 2):
        claimed_by(directory, 0, Owner("node1", 1, 0.0, "4711", attempt), attempt)
        PartialShard(directory, 0, attempt, []).begin(attempt, 2)
    directory.death("4711", 2).touch()
    assert [[entry.at for entry in flight] for flight in Claim(directory, 0, 3).deaths()] == [[2]]


class Looks:
    """Counts what claims ask of the file system."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.count: Counter[str] = Counter()
        for owner, name in [(Path, "exists"), (Path, "iterdir"), (durable, "create")]:
            patch.setattr(owner, name, self._counted(name, getattr(owner, name)))
        # Thousands of claims, and no power cut.
        patch.setattr(durable, "sync", lambda _file: None)
        patch.setattr(durable, "sync_folder", lambda _folder: None)

    def _counted(self, name, function):
        def count(*arguments: object) -> object:
            self.count[name] += 1
            return function(*arguments)

        return count


def test_four_workers_look_at_each_of_many_shards_about_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At first all four work, then the last of them alone."""
    shards = 1200
    directory = new_directory(tmp_path, shards)
    looks = Looks(monkeypatch)
    workers = [Claims(directory, shards, worker * shards // 4) for worker in range(4)]
    turns = [*workers * (shards // 8), *workers[3:] * (shards // 2)]
    taken = [claim.shard for worker in turns if (claim := worker.next())]
    assert sorted(taken) == list(range(shards))
    assert looks.count["create"] <= 2 * shards
    assert looks.count["exists"] <= 2 * shards
    assert looks.count["iterdir"] <= 4 * 2 * (shards // 1000 + 2)


def test_a_new_worker_of_a_nearly_finished_run_looks_at_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, left = 2500, 3
    directory = new_directory(tmp_path, shards)
    me = Owner.me()
    for shard in range(shards):
        claimed_by(directory, shard, me)
        if shard >= left:
            directory.done(shard).touch()
    looks = Looks(monkeypatch)
    assert Claims(directory, shards, start=1234).next() is None
    assert looks.count["exists"] < 10 * left
    assert looks.count["create"] == 0
    assert looks.count["iterdir"] < 20
