"""A job that 0.1 submitted works after an upgrade: its script and its pickle hold old names."""

import importlib
from typing import Any

import pytest

import batchgen
from batchgen.launch import slurm_array
from tests.cluster.cluster import NewRun, kill, until

pytestmark = pytest.mark.slow
OLD = {
    "batchgen.launch.node_check": "batchgen.arrive",
    "batchgen.launch.requeue": "batchgen.requeue",
}


def test_a_job_with_the_old_module_names_works_and_is_requeued_after_a_death(
    new_run: NewRun, reference: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = slurm_array.sbatch_parameters

    def with_old_names(*given: Any) -> dict[str, Any]:
        parameters = write(*given)
        for lines in (parameters["setup"], parameters["teardown"]):
            for new, old in OLD.items():
                lines[:] = [line.replace(new, old) for line in lines]
        return parameters

    monkeypatch.setattr(slurm_array, "sbatch_parameters", with_old_names)
    shim = importlib.import_module("batchgen.submit")
    del batchgen.submit  # to other tests it is the function
    monkeypatch.setattr(shim.Element, "__module__", "batchgen.submit")
    one = new_run()
    assert one.submit(pattern__delay_s=1.5).code == 0
    folder = one.root / ".batchgen/jobs/0001/submitit"
    script = next(folder.glob("*_submission.sh")).read_text()
    assert all(old in script for old in OLD.values())
    assert "batchgen.launch" not in script
    assert b"batchgen.submit" in next(folder.glob("*_submitted.pkl")).read_bytes()

    until(lambda: one.at_work(0), "it is at work")
    kill(one.owner(0)["pid"])
    until(one.done, "the run is complete")
    assert len(one.members(0)) > 1
    assert one.wrong(reference) == []
