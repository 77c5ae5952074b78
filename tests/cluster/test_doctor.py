"""`batchgen doctor --site` asks every node through SLURM, and names those that cannot work."""

import json
import os
import pickle
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from batchgen.doctor import nodes
from batchgen.doctor.links import between_nodes
from batchgen.doctor.needs import Needs
from batchgen.launch.node_jobs import submit_to_node
from batchgen.settings import load_job, load_site
from tests.cluster.cluster import Cluster, until, write_profile
from tests.cluster.test_strange_nodes import namespace  # noqa: F401 - a fixture
from tests.support.rehearsal import ask

pytestmark = pytest.mark.slow
# Test cards need no device. The cluster's GPUs are not real.
REHEARSAL = ("--set", "engine.kind=pattern", "--set", "engine.device=cpu")
NODES = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"]


def look(site: Path, out: Path, *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and the findings by node and name."""
    told = ask("doctor", "--site", site, "--out", out, "--json", *REHEARSAL, *words)
    found: dict[str, dict[str, Any]] = {}
    for line in told.out.splitlines():
        one = json.loads(line)
        found.setdefault(one["node"], {})[one["name"]] = one
    return told.code, found


def test_every_node_answers_and_exactly_one_gets_the_name_that_all_want(
    cluster: Cluster, tmp_path: Path
) -> None:
    code, found = look(write_profile(tmp_path / "site.toml"), tmp_path / "runs")
    assert code == 0, found
    (here,) = found.keys() - set(NODES)
    assert found.keys() == {here, *NODES}
    assert {"shared_folder", "same_software", "versions", "run_folder"} <= found[NODES[0]].keys()
    assert found[here]["one_winner"]["found"].startswith("of 4 nodes that linked one name, 127.0.0")
    assert [path.name for path in tmp_path.iterdir()] == ["site.toml"]
    assert cluster.jobs() == {}


def test_nodes_that_cannot_work_are_named(
    cluster: Cluster,
    namespace: list[str],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One sees another disk, one is drained, one is busy, and one has other software."""
    shared = tmp_path / "shared"
    shared.mkdir()
    subprocess.run([*namespace, f"mount -t tmpfs none {shared}"], check=True)
    metadata = tmp_path / "pillow-1.2.3.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: pillow\nVersion: 1.2.3\n")
    cluster.run("scontrol", "update", "nodename=127.0.0.1", "state=drain", "reason=fan")
    busy = ("--nodelist=127.0.0.2", "--gpus-per-node=2", "--output=/dev/null")
    cluster.run("sbatch", *busy, "--wrap=sleep 300")
    site = write_profile(
        tmp_path / "site.toml", setup=[f"export PYTHONPATH={tmp_path}:$PYTHONPATH"]
    )
    monkeypatch.setattr(nodes, "PATIENCE_S", 5.0)
    code, found = look(site, shared, "--wait", "25")
    assert code == 1
    assert found["127.0.0.1"]["node"]["found"] == "SLURM says drain: fan"
    assert "did not start within 25 s: PENDING" in found["127.0.0.2"]["node"]["found"]
    software = found["127.0.0.3"]["same_software"]
    assert software["found"].startswith("pillow is 1.2.3 here and ")
    assert found["127.0.0.3"]["versions"]["state"] == "failed"
    hidden = found["127.0.0.4"]["node"]
    assert hidden["state"] == "failed"
    assert f"The node does not see {shared}, or may not write there" in hidden["found"]
    states = {node: one["node"]["state"] for node, one in found.items() if "node" in one}
    assert states == {NODES[0]: "warning", NODES[1]: "warning", NODES[3]: "failed"}
    until(lambda: list(cluster.jobs().values()) == ["RUNNING"], "the waiting job is cancelled")


def test_ctrl_c_cancels_the_jobs(cluster: Cluster, tmp_path: Path) -> None:
    cluster.run("sbatch", "--nodes=4", "--gpus-per-node=2", "--output=/dev/null", "--wrap=sleep 99")
    until(lambda: "RUNNING" in cluster.jobs().values(), "all nodes are busy")
    site, out = write_profile(tmp_path / "site.toml"), tmp_path / "runs"
    command = [sys.executable, "-m", "batchgen", "doctor", "--site", str(site), "--out", str(out)]
    process = subprocess.Popen([*command, *REHEARSAL], env=os.environ, stdout=subprocess.DEVNULL)
    until(lambda: len(cluster.jobs()) == 5, "it has asked four nodes")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    assert len(cluster.jobs()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["site.toml"]


def test_two_nodes_pair_up_and_exchange_a_tensor(cluster: Cluster, tmp_path: Path) -> None:
    """What a node's job does at last, without all that comes before it; over gloo."""
    site = load_site(write_profile(tmp_path / "site.toml"))
    needs = Needs(load_job(None, ["parallel.cp=4", "engine.device=cpu"]), site)
    answers = {}
    for node in NODES[:2]:
        task = partial(between_nodes, tmp_path, node, needs)
        job = submit_to_node(site, tmp_path, node, task, limit_min=5)
        answers[node] = tmp_path / f"{job}_0_result.pkl"
    until(lambda: all(file.exists() for file in answers.values()), "both nodes have answered")
    for node, other in zip(NODES[:2], NODES[1::-1], strict=True):
        ended, found = pickle.loads(answers[node].read_bytes())
        assert (ended, found.state) == ("success", "ok"), found
        assert found.found.startswith(f"exchanged 4 MB with {other} over gloo")
