"""Nodes that are there at the same time pair up, and exchange a tensor.

That they do so through SLURM is tested in tests/cluster/test_doctor.py; over gloo, as no node here
has a card.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from batchgen.doctor import links
from batchgen.doctor.child import NoAnswer
from batchgen.doctor.links import between_nodes, pair_up
from batchgen.doctor.needs import Needs
from batchgen.settings import Site, load_job

SITE = Site(gpus_per_node=2, time="30")
NOTHING, ONE_NODE, TWO_NODES = (
    Needs(job, SITE)
    for job in (None, load_job(None, ["parallel.cp=2"]), load_job(None, ["parallel.cp=4"]))
)


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "PARTNER_S", 0.3)
    monkeypatch.setattr(links, "_POLL_S", 0.01)


def meet(shared: Path, *nodes: str) -> dict[str, tuple[str, int, str]]:
    """Nodes come together: each one's pair, its place in it and its partner."""
    begin = threading.Barrier(len(nodes))

    def come(node: str) -> tuple[str, int, str]:
        begin.wait()
        pair, rank, partner = pair_up(shared, node)
        return pair.name, rank, partner

    with ThreadPoolExecutor(len(nodes)) as pool:
        return dict(zip(nodes, pool.map(come, nodes), strict=True))


def test_every_node_has_at_most_one_partner_who_has_it(tmp_path: Path) -> None:
    met = meet(tmp_path, *"abcdefg")
    alone = [node for node, (_, _, partner) in met.items() if not partner]
    assert len(alone) == 1
    for node, (pair, rank, partner) in met.items():
        if partner:
            assert met[partner] == (pair, 1 - rank, node)


def test_who_has_waited_in_vain_is_nobodys_partner_later(tmp_path: Path) -> None:
    assert pair_up(tmp_path, "early") == (tmp_path / "pair-0", 0, "")
    assert {partner for _, _, partner in meet(tmp_path, "a", "b").values()} == {"a", "b"}
    assert pair_up(tmp_path, "late")[2] == ""


@pytest.mark.parametrize(("needs", "state"), [(NOTHING, "ok"), (TWO_NODES, "warning")])
def test_a_node_alone_says_that_nothing_was_tried(tmp_path: Path, needs: Needs, state: str) -> None:
    found = between_nodes(tmp_path, "n1", needs)
    assert found.state == state
    assert "no other node was there within" in found.found


def test_a_job_whose_replicas_stay_on_one_node_waits_for_nobody(tmp_path: Path) -> None:
    assert "this job's replicas stay on one node" in between_nodes(tmp_path, "n1", ONE_NODE).found
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("needs", "state"), [(NOTHING, "warning"), (TWO_NODES, "failed")])
def test_nodes_that_do_not_reach_each_other_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs: Needs, state: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise NoAnswer("trying it did not end within 120 s")

    monkeypatch.setattr(links, "attempt", fail)
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda node: between_nodes(tmp_path, node, needs), ("n1", "n2"))
    told = {(one.state, one.found.partition(":")[0]) for one in found}
    assert told == {(state, "with n1"), (state, "with n2")}


@pytest.mark.slow
def test_two_nodes_exchange_a_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on two machines: nothing tells the two that they share one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(links, "PARTNER_S", 20.0)
    asked: list[Any] = []
    attempt = links.attempt
    monkeypatch.setattr(
        links, "attempt", lambda *words, **more: asked.append(words) or attempt(*words, **more)
    )
    with ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda node: between_nodes(tmp_path, node, TWO_NODES), ("n1", "n2"))
    told = {(one.state, one.found.partition(",")[0]) for one in found}
    assert told == {("ok", f"exchanged 4 MB with n{n} over gloo") for n in (1, 2)}
    assert {words[-1] for words in asked} == {"2"}
