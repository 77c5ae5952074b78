"""A worker that makes only black pictures leaves. They do not count, and others make them again."""

import json
from pathlib import Path

import pytest

from batchgen.run.run import create
from batchgen.settings.job import load_job
from batchgen.worker.sick_devices import device_name, is_sick, mark_sick
from tests.support.rehearsal import Answer, ask, faulty, records, rehearse, status, write_prompts
from tests.support.specimens import new_directory

pytestmark = pytest.mark.slow
PROMPTS = [f"a cat {n}" for n in range(64)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    """Worker 0's device is sick from the start and slow; worker 1 has made all the rest by then.

    Two black groups are over the failure budget already, and one of their pictures fails on a
    healthy device too.
    """
    run = tmp_path_factory.mktemp("sick") / "run"
    prompts = [*PROMPTS[:2], "a cat RAISE", *PROMPTS[3:]]
    faults = {"BLACK_WORKER": "0", "SLOW_WORKER": "0"}
    return run, rehearse(
        run, prompts, faults=faults, run__workers=2, shards__pictures=32, engine__batch_size=8
    )


def test_the_run_is_not_condemned(run: tuple[Path, Answer]) -> None:
    assert run[1].code == 0, run[1]
    assert "63 ok, 1 failed" in run[1].out
    assert {record["worker"] for record in records(run[0])} == {1}


def test_the_device_is_listed_with_the_reason(run: tuple[Path, Answer]) -> None:
    (listed,) = (json.loads(path.read_text()) for path in (run[0] / ".batchgen" / "sick").iterdir())
    assert listed["device"].endswith(".slot0")
    assert "groups in a row failed, and picture 0000000" in listed["reason"]
    assert "SickDevice" in ask("logs", run[0], "--worker", 0, "-n", 0).out


def test_a_run_on_a_sick_device_alone_stops_and_resume_tries_it_again(tmp_path: Path) -> None:
    """No picture is known to be good, so the failure budget decides. A resume makes the rest."""
    run = tmp_path / "alone"
    answer = rehearse(run, PROMPTS[:32], faults={"BLACK_WORKER": "0"}, shards__pictures=32)
    assert answer.code == 4
    with faulty():
        resumed = ask("resume", run)
    assert resumed.code == 0
    told = status(run)
    assert 10 < told["failures"]["one colour"] <= 10 + 2 * 4
    assert told["ok"] == 32 - told["failed"]


def test_a_resume_forgives_a_device_that_was_listed(tmp_path: Path) -> None:
    file = write_prompts(tmp_path / "prompts.parquet", PROMPTS[:4])
    run, _ = create(tmp_path / "run", [file], load_job(None, ["engine.kind=pattern"]), None)
    mark_sick(run.directory, device_name(0), "it was on fire")
    assert ask("resume", tmp_path / "run").code == 0
    assert not is_sick(run.directory, device_name(0))


def test_a_slice_of_a_card_whose_name_has_slashes_can_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So drivers before 470 name it."""
    directory = new_directory(tmp_path, 1)
    names = []
    for visible in ("MIG-GPU-8f3a/1/0", "MIG-GPU-8f3a/2/0,MIG-GPU-8f3a/3/0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        names.append(device_name(0))
        assert not is_sick(directory, names[-1])
        mark_sick(directory, names[-1], "it was on fire")
    assert all(is_sick(directory, name) for name in names)
