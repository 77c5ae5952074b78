"""Several ranks as one engine: what they paint, how they leave, and that all end if one fails."""

import contextlib
import functools
import itertools
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from batchgen.engine import follow_engine
from batchgen.engine.build import build_engine
from batchgen.engine.families.flux import Flux
from batchgen.engine.interface import Rendezvous, Workload
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.replica import control, rendezvous
from batchgen.engine.replica.store import Store
from batchgen.errors import DeviceFault, JobError
from batchgen.manifest import Picture
from batchgen.model.checkpoint import resolve
from batchgen.settings.job import Job, parse_job
from tests.engine.parallel import rank_tasks as tasks
from tests.engine.parallel.rank_tasks import Made
from tests.support.replica_processes import ReplicaProcesses
from tests.support.stock import make_picture

pytestmark = pytest.mark.slow

# Pictures skip different steps, and no distance is near the threshold.
CACHE = {"policy": "first_block", "threshold": 0.263, "taylor_order": 1}
# A fifth of the usual patience.
SOON = {"GRACE_S": 2.0, "WATCH_S": 0.2, "SILENT": 15}


def job(**parallel: int) -> Job:
    sections = {
        "model": {"path": "tiny", "max_sequence_length": 32},
        "engine": {"device": "cpu"},
        "cache": CACHE,
        "parallel": parallel or {"cp": 2},
    }
    return parse_job(sections, "a test")


def groups(first: int, steps: int, count: int = 2) -> list[list[Picture]]:
    """Groups of two pictures, with keys from `first` on. The key decides prompt and seed."""
    keys = range(first, first + 2 * count, 2)
    return [[make_picture(key + n, steps=steps) for n in range(2)] for key in keys]


def assert_equal(made: Sequence[Made], expected: Sequence[Made]) -> None:
    for one, other in zip(made, expected, strict=True):
        assert (one.latents - other.latents).abs().max() < 1e-4
        assert abs(one.pixels.astype(int) - other.pixels).max() <= 1
        assert one.skipped == other.skipped


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReplicaProcesses]:
    """A replica of three ranks that works while others fail; in the end it leaves in good order."""
    with ReplicaProcesses(tmp_path_factory.mktemp("steady") / "replica", job(cp=3)) as replica:
        yield replica
        replica.close()
        assert replica.ends() == [0, 0, 0]


@functools.cache
def alone(*order: int) -> list[Made]:
    """What one rank, in this process, makes of `groups(*order)`."""
    return tasks.make(tasks.engine_of(Ranks(), job()), groups(*order))


def test_a_replica_makes_what_one_rank_makes(steady: ReplicaProcesses) -> None:
    """A second thread decodes one group while the next one is denoised."""
    steady.ask(tasks.make, groups(0, 6, 4))
    assert_equal(steady.answer(), alone(0, 6, 4))


def spoil(deed: str, folder: Path, step: int = 13) -> Callable[[], None]:
    """Something that happens to a rank at the fourth step of its second group."""
    return functools.partial(tasks.spoil, deed, step, folder / "mark")


def since(folder: Path) -> float:
    """Seconds since it happened."""
    return time.monotonic() - float((folder / "mark").read_text())


@pytest.mark.parametrize(
    ("deed", "rank"), [("raise", 1), ("raise", 0), ("fill", 1), ("kill", 1), ("kill", 0)]
)
def test_a_rank_that_fails_takes_its_replica_along_and_no_other(
    steady: ReplicaProcesses, tmp_path: Path, deed: str, rank: int
) -> None:
    """Over gloo all end within 0.1 to 0.4 s. A killed rank says nothing: there is no verdict."""
    with ReplicaProcesses(tmp_path / "replica", job(), {rank: spoil(deed, tmp_path)}) as replica:
        replica.ask(tasks.make, groups(10, 9, 1))
        made = replica.answer()
        steady.ask(tasks.make, groups(0, 6, 4))  # from here on both work at the same time
        replica.ask(tasks.make, groups(12, 9, 1))
        with pytest.raises(EOFError if (deed, rank) == ("kill", 0) else DeviceFault) as error:
            replica.answer()
        statuses, took = replica.ends(), since(tmp_path)
    assert_equal(steady.answer(), alone(0, 6, 4))
    assert_equal(made, alone(10, 9, 1))
    print(f"{deed} {rank}: {took:.1f} s")
    assert took < 60
    said = [(verdict.cause, verdict.pictures) for verdict in replica.verdicts()]
    causes = {"raise": ("exception", "RuntimeError: "), "fill": ("out of memory", "OutOfMemory: ")}
    if deed == "kill":
        assert said == []
    else:
        cause, name = causes[deed]
        assert said == [(cause, (12, 13))]
        assert re.search(f"rank {rank} of 2 on .*: {name}.*spoilt", str(error.value))
        assert replica.verdicts()[0].why in str(error.value)
    assert statuses[rank] == (-signal.SIGKILL if deed == "kill" else control.LOST)
    assert statuses[1 - rank] == control.LOST


def test_an_audits_group_is_made_by_all_ranks_without_the_cache(steady: ReplicaProcesses) -> None:
    uncached = functools.partial(tasks.make, cached=False)
    steady.ask(uncached, groups(0, 6, 1))
    made = steady.answer()
    assert_equal(made, uncached(tasks.engine_of(Ranks(), job()), groups(0, 6, 1)))
    assert made[0].skipped == []
    assert not torch.equal(made[0].latents, alone(0, 6, 4)[0].latents), "the cache does skip"


@pytest.mark.parametrize("deed", ["raise", "fill"])
def test_a_replica_that_fails_in_an_audit_blames_no_picture(tmp_path: Path, deed: str) -> None:
    """There is no verdict: after two deaths the group is made without an audit."""
    with ReplicaProcesses(tmp_path / "replica", job(), {1: spoil(deed, tmp_path)}) as replica:
        replica.ask(tasks.make, groups(10, 9, 1))
        replica.answer()
        replica.ask(functools.partial(tasks.make, cached=False), groups(12, 9, 1))
        with pytest.raises(DeviceFault, match=r"rank 1 of 2 on .*spoilt"):
            replica.answer()
        assert replica.ends() == [control.LOST] * 2
        assert replica.verdicts() == []


def test_strangers_at_the_ports_place_no_failure_and_stop_nothing(tmp_path: Path) -> None:
    """Every port of a replica on one machine is out of reach of other machines."""
    forged = json.dumps(["exception", [10, 11], "a stranger's words"])
    with ReplicaProcesses(tmp_path / "replica", job()) as replica:
        replica.ask(tasks.make, groups(10, 6, 1))
        made = replica.answer()
        ports = {
            listening.laddr
            for process in replica.processes.values()
            for listening in psutil.Process(process.pid).net_connections("tcp")
            if listening.status == psutil.CONN_LISTEN
        }
        assert {address for address, _ in ports} == {"127.0.0.1"}
        _, port, _ = (tmp_path / "replica" / "address").read_text().split()
        assert int(port) in {number for _, number in ports}
        with contextlib.ExitStack() as stack:
            for secret in (b"", b"\0" * 32, b"a guess of thirty-two characters"):
                with pytest.raises(DeviceFault):
                    Store("127.0.0.1", int(port), secret, 2).set("failed", forged)
            for words in (b"", forged.encode(), b"\0" * 100, b"n" * 32 + bytes(36)):
                stranger = socket.create_connection(("127.0.0.1", int(port)))
                stack.enter_context(stranger).sendall(words)
            replica.ask(tasks.make, groups(12, 6, 1))
            made += replica.answer()
        replica.close()
        assert replica.ends() == [0, 0]
    assert replica.verdicts() == []
    assert_equal(made, alone(10, 6, 2))


def test_a_rank_that_hangs_is_ended_when_another_has_failed(tmp_path: Path) -> None:
    """A rank hangs when its device waits for a peer that will never come."""
    with ReplicaProcesses(
        tmp_path / "replica", job(), {0: spoil("hang", tmp_path), 1: spoil("raise", tmp_path)}, SOON
    ) as replica:
        replica.ask(tasks.make, groups(10, 9))
        with pytest.raises(EOFError):
            replica.answer()
        assert replica.ends() == [control.LOST] * 2
        assert [verdict.pictures for verdict in replica.verdicts()] == [(12, 13)], (
            "its watch speaks for the leader"
        )


def test_a_rank_that_cannot_decode_names_the_group_it_was_decoding(tmp_path: Path) -> None:
    """It does so although the other rank already works on the next group."""
    with ReplicaProcesses(tmp_path / "replica", job(), {1: tasks.spoil_decoding}) as replica:
        replica.ask(tasks.make, groups(10, 9))
        with pytest.raises(DeviceFault, match=r"rank 1 of 2 on .*: OutOfMemory"):
            replica.answer()
        assert replica.ends() == [control.LOST] * 2
        assert [(verdict.cause, verdict.pictures) for verdict in replica.verdicts()] == [
            ("out of memory", (10, 11))
        ]


def test_a_rank_that_freezes_is_missed_and_ends_when_it_thaws(tmp_path: Path) -> None:
    with ReplicaProcesses(
        tmp_path / "replica", job(), {1: spoil("freeze", tmp_path)}, SOON
    ) as replica:
        replica.ask(tasks.make, groups(10, 9))
        with pytest.raises(EOFError):  # the leader hangs in an exchange
            replica.answer()
        replica.processes[0].join(30)
        assert replica.processes[0].exitcode == control.LOST
        os.kill(replica.processes[1].pid, signal.SIGCONT)
        assert replica.ends(30) == [control.LOST] * 2
        assert replica.verdicts() == []


def test_a_leader_that_freezes_is_missed_and_ends_when_it_thaws(tmp_path: Path) -> None:
    """It neither answers nor closes its connections, as a machine that has lost its power."""
    patience = SOON | {"ANSWER_S": 3.0}
    with ReplicaProcesses(
        tmp_path / "replica", job(), {0: spoil("freeze", tmp_path)}, patience
    ) as replica:
        replica.ask(tasks.make, groups(10, 9))
        replica.processes[1].join(60)
        assert replica.processes[1].exitcode == control.LOST
        os.kill(replica.processes[0].pid, signal.SIGCONT)
        assert replica.ends(60) == [control.LOST] * 2
        assert replica.verdicts() == []


def test_a_leader_that_is_terminated_takes_the_others_along(tmp_path: Path) -> None:
    with ReplicaProcesses(tmp_path / "replica", job()) as replica:
        replica.ask(tasks.identity)
        replica.answer()
        replica.ask(tasks.decode_late, *groups(10, 6, 1), *groups(10, 1000, 1))
        time.sleep(3)
        replica.processes[0].terminate()
        assert replica.ends() == [0, control.LOST]


def test_a_leader_that_leaves_waits_for_the_others(tmp_path: Path) -> None:
    with ReplicaProcesses(tmp_path / "replica", job(), {1: tasks.slow_to_receive}) as replica:
        replica.close()
        assert replica.ends() == [0, 0]


def test_a_rank_that_cannot_load_its_model_is_an_error_for_the_leader(tmp_path: Path) -> None:
    with ReplicaProcesses(tmp_path / "replica", job(), {1: tasks.no_model}) as replica:
        replica.ask(tasks.make, groups(10, 6, 1))
        with pytest.raises(DeviceFault, match=r"rank 1 of 2 on .*: ModelError: there is none"):
            replica.answer()
        assert replica.ends() == [control.LOST, 1]


def test_an_impossible_job_is_an_error_of_the_job(tmp_path: Path) -> None:
    with ReplicaProcesses(tmp_path / "replica", job(cp=2, ulysses=1, ring=1)) as replica:
        with pytest.raises(JobError, match="but cp = 2"):
            replica.answer()
        assert replica.ends() == [1, 1]


def test_a_follower_that_never_comes_is_an_error_in_time(tmp_path: Path) -> None:
    with ReplicaProcesses(
        tmp_path / "replica", job(cp=3), patience={"JOIN_S": 5.0}, absent=(1,)
    ) as replica:
        with pytest.raises(
            DeviceFault, match=r"rank [02] of 3: ranks \[1\] did not come within 5 s"
        ):
            replica.answer()
        replica.ends()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "rank 0 did not come within 1 s"),
        ("localhost 9 00", "rank 0 is gone or does not answer"),
    ],
)
def test_a_leader_that_never_comes_is_an_error_in_time(
    monkeypatch: pytest.MonkeyPatch, address: str, words: str
) -> None:
    monkeypatch.setattr(rendezvous, "JOIN_S", 1.0)
    begin, work = time.monotonic(), Workload(((128, 128),), 2, negative=False)
    with pytest.raises(DeviceFault, match=words):
        follow_engine(job(), resolve(job().model), work, Rendezvous(1, 2, find=lambda: address))
    assert time.monotonic() - begin < 20


def test_an_exception_in_the_middle_of_a_group_leaves_no_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On one rank the engine goes on. The next group equals a fresh engine's, bit for bit."""
    (failing, following), engine = groups(0, 8), build_engine(job(), resolve(job().model))
    calls, head = itertools.count(), Flux.head

    def spoilt(family: Flux, *words: Any) -> Any:
        if next(calls) == 5:
            raise RuntimeError("spoilt")
        return head(family, *words)

    monkeypatch.setattr(Flux, "head", spoilt)
    with pytest.raises(RuntimeError, match="spoilt"):
        engine.denoise(failing)
    made = engine.denoise(following)
    fresh = build_engine(job(), resolve(job().model)).denoise(following)
    assert torch.equal(made.latents, fresh.latents)
    assert made.traces == fresh.traces
    assert any("1" in trace.skipped for trace in made.traces)
