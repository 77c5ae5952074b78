"""How many workers a submission has, and what its supervisor does when one of them ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import JobError
from batchgen.launch import supervisor
from batchgen.launch.supervisor import Supervisor, launch
from batchgen.planning.hardware import visible_devices, worker_count
from batchgen.run import submissions
from batchgen.run.departures import Departure
from batchgen.run.directory import RunDirectory
from batchgen.run.owner import Owner
from batchgen.run.stop import ask_to_stop, read_stop
from batchgen.run.submissions import Submission
from batchgen.settings.job import Job, parse_job
from batchgen.shard.commit import committed_shards
from tests.support.specimens import done, new_directory


def job(**sections: Any) -> Job:
    return parse_job(sections, "")


@pytest.mark.parametrize(
    ("given", "devices"),
    [
        ("0", ("0",)),
        ("2,5", ("2", "5")),
        (" 3 , 1 ", ("3", "1")),
        ("GPU-8f3a,MIG-77", ("GPU-8f3a", "MIG-77")),
        ("", ()),
        ("-1", ()),
        ("0,-1,1", ("0",)),
    ],
)
def test_the_devices_are_those_this_process_was_given(
    given: str, devices: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_devices(job()) == devices


@pytest.mark.parametrize("engine", [{"kind": "pattern"}, {"device": "cpu"}])
def test_a_job_that_wants_no_gpu_is_given_none(
    engine: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert visible_devices(job(engine=engine)) == ()


@pytest.mark.usefixtures("no_driver")
def test_a_machine_without_a_driver_has_no_devices() -> None:
    assert visible_devices(job()) == ()


def test_where_nothing_was_given_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    first = "GPU 0: NVIDIA H200 (UUID: GPU-1)\n  MIG 1g.18gb Device 0: (UUID: MIG-1)\n"
    answer = subprocess.CompletedProcess([], 0, f"{first}GPU 1: NVIDIA H200 (UUID: GPU-2)\n")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    assert visible_devices(job()) == ("MIG-1", "GPU-2"), "of a divided card, its slices"


@pytest.mark.usefixtures("no_driver")
def test_a_job_that_insists_on_a_gpu_is_refused_where_there_is_none() -> None:
    class Wanted:
        job = parse_job({"engine": {"device": "cuda"}}, "")

    with pytest.raises(JobError, match=r'engine\.device = "cuda": this machine has no GPU'):
        launch(Wanted(), [])


@pytest.mark.parametrize(
    ("sections", "devices", "shards", "workers"),
    [
        ({}, (), 99, 6),  # one a core
        ({"engine": {"threads": 2}}, (), 99, 3),
        ({"engine": {"threads": 8}}, (), 99, 1),
        ({}, ("0", "1"), 99, 2),  # one a GPU
        ({}, ("0", "1"), 1, 1),  # never more than shards
        ({"run": {"workers": 5}}, ("0",), 99, 5),
        ({"run": {"workers": 5}}, (), 3, 3),
    ],
)
def test_workers_are_as_the_job_says_or_one_a_gpu_or_core(
    sections: dict[str, Any],
    devices: tuple[str, ...],
    shards: int,
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(6)))
    assert worker_count(job(**sections), devices, shards) == workers


class Dead:
    """A submitit job that has ended."""

    def done(self) -> bool:
        return True


class Rehearsal:
    """A supervisor whose workers end at once, no process among them.

    Each worker first does the `deeds`, which are given its number.
    """

    def __init__(
        self, directory: RunDirectory, patch: pytest.MonkeyPatch, workers: int = 1
    ) -> None:
        self.directory, self.started = directory, [0] * workers
        self.deeds: list[Callable[[int], object]] = []
        patch.setattr(supervisor, "POLL_S", 0)
        patch.setattr(supervisor, "PAUSE_S", 0)
        patch.setattr(supervisor.signal, "signal", lambda *_: None)
        submission = submissions.record_submission(directory, [], workers)
        self.supervisor = Supervisor(directory, submission)
        patch.setattr(supervisor, "start_here", self._start)

    def _start(self, _directory: RunDirectory, _submission: Submission, index: int) -> Dead:
        self.started[index] += 1
        assert self.started[index] < 100, "it starts workers without end"
        for deed in self.deeds:
            deed(index)
        return Dead()

    def leaves(self, index: int, why: str) -> None:
        path = submissions.join(self.directory, 1, "worker", index)
        path.write_text(json.dumps(asdict(Owner("here", 1, 1.0))))
        submissions.leave(path, Departure.parse(why))

    def publishes(self) -> None:
        shard = len(committed_shards(self.directory))
        self.directory.done(shard).write_bytes(done(shard).encode())


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    return new_directory(tmp_path, 50)


def test_a_worker_that_left_in_good_order_is_not_started_again(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsal = Rehearsal(directory, monkeypatch, workers=3)
    rehearsal.deeds = [lambda index: rehearsal.leaves(index, "all shards are done")]
    rehearsal.supervisor.run()
    assert rehearsal.started == [1, 1, 1]
    assert read_stop(directory) is None


def test_a_worker_that_only_dies_is_given_up_with_its_last_words(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsal = Rehearsal(directory, monkeypatch)
    submissions.log_file(directory, 1, 0).write_text(
        "loading\nCUDA driver version is insufficient\n\n"
    )
    rehearsal.supervisor.run()
    stop = read_stop(directory)
    assert rehearsal.started == [supervisor.FRUITLESS_DEATHS]
    assert stop is not None
    died = "worker 0 died 6 times without a new picture"
    last_words = "its last words: CUDA driver version is insufficient"
    assert (stop.cause, stop.text) == ("restarts", f"{died}; {last_words}")


def test_a_worker_that_dies_with_progress_is_always_started_again(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsal = Rehearsal(directory, monkeypatch)
    rehearsal.deeds = [
        lambda _: rehearsal.publishes(),
        lambda index: rehearsal.leaves(index, "done") if rehearsal.started[0] == 40 else None,
    ]
    rehearsal.supervisor.run()
    assert rehearsal.started == [40]
    assert read_stop(directory) is None


def test_a_dead_worker_of_a_stopped_run_is_not_started_again(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsal = Rehearsal(directory, monkeypatch)
    rehearsal.deeds = [lambda _: ask_to_stop(directory, "user", "")]
    rehearsal.supervisor.run()
    assert rehearsal.started == [1]


def test_a_death_in_a_slurm_job_is_noted_for_whoever_goes_on_with_the_shard(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = {"SLURM_JOB_ID": "4711", "SLURMD_NODENAME": "node1", "SLURM_RESTART_COUNT": "2"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    Rehearsal(directory, monkeypatch).supervisor.run()
    assert directory.death("4711", 2).exists()


def test_workers_that_found_nothing_free_come_back_once_for_the_shards_of_a_sick_device(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsal = Rehearsal(directory, monkeypatch, workers=3)
    why = {
        0: "SickDevice: here.slot0",
        1: "nothing free: others work on the rest",
        2: "all shards are done",
    }
    rehearsal.deeds = [lambda index: rehearsal.leaves(index, why[index])]
    rehearsal.supervisor.run()
    assert rehearsal.started == [1, 2, 1]


def test_a_submission_whose_time_is_over_stops_the_run(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehearsal = Rehearsal(directory, monkeypatch)
    rehearsal.deeds = [lambda index: rehearsal.leaves(index, "deadline")]
    rehearsal.supervisor.run()
    stop = read_stop(directory)
    assert stop is not None
    assert stop.cause == "time limit"


def test_a_worker_that_ends_by_itself_in_the_last_moment_does_not_spare_the_others(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was alive when it was looked at, and gone when it was signalled."""
    rehearsal = Rehearsal(directory, monkeypatch, workers=2)
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        for index, process in enumerate((gone, other)):
            path = submissions.join(directory, 1, "worker", index)
            path.write_text(json.dumps(asdict(Owner("here", process.pid, 1.0))))
        monkeypatch.setattr(submissions.Member, "life", lambda _: "alive")
        rehearsal.supervisor._end_workers()
        assert other.wait(30) == -signal.SIGTERM
