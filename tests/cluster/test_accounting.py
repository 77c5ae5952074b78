"""A second cluster, with accounting: the same as without, and quotas that refuse."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchgen import slurm
from tests.cluster.cluster import Cluster, ClusterRun, kill, until, write_profile
from tests.cluster.conftest import start_cluster
from tests.support.rehearsal import ask

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def accounted() -> Iterator[Cluster]:
    """Another cluster beside the first one, with accounting."""
    yield from start_cluster(accounting=True)


def test_with_accounting_and_arrays_of_one_node_all_is_the_same(
    accounted: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: dict[str, str]
) -> None:
    """A worker dies, its node comes back, and the run is complete.

    Two nodes are two jobs, because arrays of more than one element are not taken.
    """
    monkeypatch.setenv("SLURM_CONF", str(accounted.testcluster.conf))
    monkeypatch.setattr(slurm, "max_array_size", lambda: 1)
    one = ClusterRun(accounted, tmp_path / "run", write_profile(tmp_path / "site.toml"))
    answer = one.submit(pattern__delay_s=1.5)
    assert re.search(r"4 workers on 2 nodes submitted to SLURM as \d+, \d+\.", answer.out)
    until(lambda: one.at_work(2), "it is at work")
    kill(one.owner(2)["pid"])
    until(lambda: len(one.members(2)) > 1, "the worker is back")
    assert ask("status", one.root, "--watch").code == 0
    assert one.wrong(reference) == []
    assert [len(one.members(worker)) for worker in range(4)] == [1, 1, 2, 2]
    accounted.empty()


def test_a_quota_that_is_full_is_told_with_what_was_submitted_before(
    accounted: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: dict[str, str]
) -> None:
    """The account may have one job at a time.

    Nothing of an array of two elements is sent. Of two arrays the first is sent, and works.
    """
    monkeypatch.setenv("SLURM_CONF", str(accounted.testcluster.conf))
    account = accounted.script.ACCOUNT
    accounted.run("sacctmgr", "-i", "modify", "account", account, "set", "GrpSubmitJobs=1")
    until(
        lambda: "GrpSubmitJobs=1(" in accounted.run("scontrol", "show", "assoc_mgr", "flags=assoc"),
        "slurmctld knows the quota",
    )
    one = ClusterRun(
        accounted, tmp_path / "run", write_profile(tmp_path / "site.toml", account=account)
    )
    told = one.submit()
    assert told.code == 2
    assert re.search("SLURM refuses the job: .*job submit limit", told.err)
    assert not one.root.exists()
    monkeypatch.setattr(slurm, "max_array_size", lambda: 1)
    told = one.submit()
    assert told.code == 2
    submitted = r"1 of 2 elements were submitted before, as \d+, and will work\. batchgen resume "
    assert re.search(rf"job submit limit.*\. {submitted}", told.err)
    assert f"as {one.element().partition('_')[0]}, and will work" in told.err
    assert ask("status", one.root, "--watch").code == 0
    assert one.wrong(reference) == []
    accounted.run("sacctmgr", "-i", "modify", "account", account, "set", "GrpSubmitJobs=-1")
    accounted.empty()
