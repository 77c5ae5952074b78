"""An array element is requeued if one of its workers died or was told to leave, and work is left.

An element of a stopped run ends, and so does one whose allocations bring no new picture.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from batchgen.launch import requeue
from batchgen.launch.requeue import FRUITLESS_DEATHS, FRUITLESS_RELEASES, goes_on
from batchgen.run import job_arrays, submissions
from batchgen.run.departures import Departure
from batchgen.run.directory import RunDirectory
from batchgen.run.owner import Owner
from batchgen.run.stop import ask_to_stop, clear_stop
from batchgen.run.submissions import Submission
from batchgen.settings.site import Site
from tests.support.specimens import new_directory

SITE = Site(gpus_per_node=2, time="1:00")
KILLED = 137


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    directory = new_directory(tmp_path)
    directory.plan.touch()
    return directory


@pytest.fixture
def submission(directory: RunDirectory) -> Submission:
    """Two elements of two workers."""
    return submissions.record_submission(directory, [], 4, site=SITE)


def lived(
    directory: RunDirectory, worker: int, restarts: int = 0, ended: str = "", *, made: bool = True
) -> None:
    path = submissions.join(directory, 1, "worker", worker)
    path.write_text(json.dumps(asdict(replace(Owner.me(), job="4711", restarts=restarts))))
    if made:
        path.with_suffix(".made").touch()
    if ended:
        submissions.leave(path, Departure.parse(ended))


@pytest.mark.parametrize(
    ("reasons", "status", "answer"),
    [
        (["SIGUSR2", "SIGUSR2"], 0, True),
        (["deadline", "nothing free: others work on the rest"], 0, True),
        (["SIGTERM", ""], 143, True),
        (["all shards are done", ""], KILLED, True),
        (["nothing free: others work on the rest"] * 2, 0, False),
        (["all shards are done"] * 2, 0, False),
        (["SickDevice: node1.cuda0: …", "PlanChanged: …"], 0, False),
        (["CannotStart: the engine cannot be made: …"] * 2, 1, False),
        (["CannotStart: the engine cannot be made: …", ""], 1, True),
        ([], 0, False),
        ([], 1, True),  # they died before they were workers
    ],
)
def test_an_element_goes_on_whose_workers_died_or_were_told_to_leave(
    reasons: list[str], status: int, answer: bool, directory: RunDirectory, submission: Submission
) -> None:
    for worker, reason in enumerate(reasons):
        lived(directory, worker, ended=reason)
    lived(directory, 2, ended="SIGUSR2")  # of the other element
    lived(directory, 3)
    assert goes_on(directory, submission, 0, 0, status)[0] == answer


def test_what_an_incarnation_before_did_is_over(
    directory: RunDirectory, submission: Submission
) -> None:
    lived(directory, 0, 0, "SIGUSR2")
    lived(directory, 0, 1, "all shards are done")
    assert not goes_on(directory, submission, 0, 1, 0)[0]


def test_a_stopped_or_complete_run_does_not_go_on(
    directory: RunDirectory, submission: Submission
) -> None:
    lived(directory, 0, ended="SIGTERM")
    ask_to_stop(directory, "user", "")
    answer = goes_on(directory, submission, 0, 0, KILLED)
    assert answer == (False, "the run was asked to stop: user")
    clear_stop(directory)
    directory.index.touch()
    assert goes_on(directory, submission, 0, 0, KILLED) == (False, "the run is complete")


def test_a_profile_may_forbid_it(directory: RunDirectory) -> None:
    submission = submissions.record_submission(
        directory, [], 2, site=SITE.model_copy(update={"requeue": False})
    )
    lived(directory, 0, ended="SIGUSR2")
    assert goes_on(directory, submission, 0, 0, 0) == (
        False,
        "its workers left: SIGUSR2, and its site profile says requeue = false",
    )


@pytest.mark.parametrize(("status", "most"), [(0, FRUITLESS_RELEASES), (KILLED, FRUITLESS_DEATHS)])
def test_an_element_that_makes_nothing_ends_after_some_restarts(
    status: int, most: int, directory: RunDirectory, submission: Submission
) -> None:
    """The first incarnation made a group."""
    answers = []
    for restarts in range(8):
        lived(directory, 1, restarts, "" if status else "SIGUSR2", made=restarts == 0)
        answers.append(goes_on(directory, submission, 0, restarts, status)[0])
    assert answers == [restarts <= most for restarts in range(8)]


def test_an_element_that_makes_groups_always_goes_on(
    directory: RunDirectory, submission: Submission
) -> None:
    for restarts in range(0, 40, 2):
        lived(directory, 1, restarts, "deadline")
    assert goes_on(directory, submission, 0, 40, KILLED)[0]


def test_an_element_in_which_no_worker_comes_ends_soon_with_what_srun_said(
    directory: RunDirectory, submission: Submission
) -> None:
    job_arrays.record_arrays(directory, 1, {"4711": 2})
    log = submissions.batch_log(directory, 1, "4711_0")
    log.write_text(
        "srun: error: Invalid --cpu-bind argument: none-such\n"
        "batchgen: element 0 goes on in a new allocation: a worker died (exit code 1)\n"
    )
    assert goes_on(directory, submission, 0, 0, 1)[0], "a node may have failed"
    assert goes_on(directory, submission, 0, 1, 1)[0]
    said = "srun: error: Invalid --cpu-bind argument: none-such"
    told = f"no worker came in 3 allocations (exit code 1): {said}"
    assert goes_on(directory, submission, 0, 2, 1) == (False, told)


def test_the_batch_script_is_answered_by_an_exit_code_and_a_death_is_noted(
    directory: RunDirectory,
    submission: Submission,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    job = {"SLURM_JOB_ID": "4711", "SLURMD_NODENAME": "node1", "SLURM_RESTART_COUNT": "6"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)

    def ask(status: int) -> int | str | None:
        arguments = [str(directory.root), str(submission.number), "0", str(status)]
        monkeypatch.setattr(sys, "argv", ["requeue", *arguments])
        with pytest.raises(SystemExit) as end:
            requeue.main()
        return end.value.code

    lived(directory, 0, 6)
    assert ask(KILLED) == 0
    again = "element 0 goes on in a new allocation: a worker died (exit code 137)"
    assert again in capfd.readouterr().err
    assert directory.death("4711", 6).read_text() == "137"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "12")
    assert ask(KILLED) == 1
    told = "a worker died (exit code 137), and 6 allocations in a row brought no new picture"
    assert told in capfd.readouterr().err
    assert job_arrays.given_up(directory, 1) == [f"element 0 on node1: {told}"]
    assert ask(0) == 1
    assert len(job_arrays.given_up(directory, 1)) == 1
