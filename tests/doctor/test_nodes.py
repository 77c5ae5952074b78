"""A node's answer is judged: the bytes that both must see, and the one name that one may get.

That real nodes are asked through SLURM is tested in tests/cluster/test_doctor.py.
"""

import hashlib
import os
from pathlib import Path

import pytest

from batchgen.doctor import nodes, question
from batchgen.doctor.finding import Finding
from batchgen.doctor.question import Question
from batchgen.planning.identity import software
from batchgen.settings import Site as Profile
from batchgen.settings import load_job, to_toml


class Site:
    """Nodes that answer in a folder, without SLURM."""

    def __init__(self, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        content = os.urandom(100)
        (shared / "submitter.bytes").write_bytes(content)
        self.asked = nodes._Asked(shared, hashlib.sha256(content).hexdigest())
        self._monkeypatch = monkeypatch

    def answer(self, node: str) -> None:
        self._monkeypatch.setenv("SLURMD_NODENAME", node)
        job = to_toml(load_job(None, ["engine.kind=pattern"]))
        shared = self.asked.shared
        profile = Profile(gpus_per_node=0, workers_per_node=1, time="30")
        Question(str(shared), str(shared), job, profile, software(), self.asked.sha256)()
        self._monkeypatch.delenv("SLURMD_NODENAME")
        self.asked.jobs[node] = "100"

    def read(self, node: str) -> dict[str, Finding]:
        return {one.name: one for one in nodes._read_answer(self.asked, node)}

    def winner(self) -> Finding:
        ((found,),) = nodes._one_winner(self.asked)
        return found


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    for side in (nodes, question):
        monkeypatch.setattr(side, "PATIENCE_S", 0)
    return Site(tmp_path, monkeypatch)


def test_nodes_that_see_the_same_bytes_answer_and_one_of_them_wins(site: Site) -> None:
    assert site.read("n1") == {}
    site.answer("n1")
    site.answer("n2")
    assert {one.state for one in site.read("n1").values()} == {"ok"}
    assert {one.node for one in site.read("n2").values()} == {"n2"}
    assert site.winner().found == "of 2 nodes that linked one name, n1 got it"


def test_a_node_that_sees_other_bytes_fails(site: Site) -> None:
    site.answer("n1")
    (site.asked.shared / "n1.bytes").write_bytes(b"stale")
    assert site.read("n1")["shared_folder"].state == "failed"
    (site.asked.shared / "submitter.bytes").write_bytes(b"stale")
    site.answer("n2")
    assert site.read("n2")["shared_folder"].state == "failed"


def test_two_nodes_that_both_got_the_name_fail(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.answer("n1")
    (site.asked.shared / "winner").unlink()  # as where links are not seen by others
    site.answer("n2")
    site.read("n1")
    site.read("n2")
    assert site.winner().state == "failed"
    assert "n1, n2 got it: two workers could publish one shard" in site.winner().found
