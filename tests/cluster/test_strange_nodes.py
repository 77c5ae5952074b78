"""A node may have another disk, container or software than the machine that submits.

The person is told which node it is and what it sees.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster, NewRun, kill, until
from tests.support.rehearsal import ask, rehearse, status

pytestmark = pytest.mark.slow
NODE = "127.0.0.4"
HIDDEN = "mount -t tmpfs none {root}"
ANOTHER = "mount --bind {other} {root}"
READ_ONLY = "mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}"


@dataclass(frozen=True)
class View:
    """How the node sees a run directory, what `status` then says, and what a batch script says."""

    mount: str
    told: str
    log: str = ""


SILENT = (
    "ended without a word: its node (127.0.0.4; SLURM says {reason}) does not see {root}, "
    "or may not write there"
)
VIEWS = {
    "hidden": View(HIDDEN, SILENT.replace("{reason}", "JobLaunchFailure")),
    "another": View(
        ANOTHER,
        SILENT.replace("{reason}", "NonZeroExitCode"),
        "is another run's of the same name (",
    ),
    "unwritable": View(
        READ_ONLY.replace("{folder}", "{root}"), SILENT.replace("{reason}", "JobLaunchFailure")
    ),
    "no-logs": View(
        READ_ONLY.replace("{folder}", "{root}/.batchgen/logs"),
        "ended before it was a worker: batchgen: 127.0.0.4: the run directory {root} "
        "cannot be used by user 0 there: [Errno 30] Read-only",
        "Put the run on a file system that every node",
    ),
}


def needs_root() -> None:
    if os.getuid() != 0:
        pytest.skip("NOT TESTED ON NODES THAT SEE ANOTHER DISK: only root can make one")


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[list[str]]:
    """A node with mounts of its own; words before a command that is to run among them."""
    needs_root()
    daemon = f"slurmd -D -f {cluster.testcluster.conf} -N {NODE}"
    kill(*cluster.processes(daemon))
    cluster.start_daemon("unshare", "--mount", *daemon.split())
    found: list[int] = []
    until(lambda: found.extend(cluster.processes(daemon)) or found, "slurmd is back")
    yield ["nsenter", "--mount", f"--target={found[0]}", "sh", "-c"]
    kill(*cluster.processes(daemon))
    cluster.start_daemon(*daemon.split())


def test_a_node_that_does_not_see_the_run_is_told(
    new_run: NewRun, cluster: Cluster, namespace: list[str], tmp_path: Path
) -> None:
    """Four runs on one node, which sees nothing, another run of that name, or a read-only disk.

    None of them is requeued without end.
    """
    other = tmp_path / "elsewhere"
    assert rehearse(other, ["a cat"] * 8).code == 0
    node = {"nodes": 1, "gpus_per_node": 0, "workers_per_node": 1}
    held = [f"--nodelist={NODE}", "--hold"]
    runs = {name: new_run(name, **node, sbatch=held) for name in VIEWS}
    for name, one in runs.items():
        assert one.submit().code == 0
        mount = VIEWS[name].mount.format(root=one.root, other=other)
        subprocess.run([*namespace, mount], check=True)
        cluster.run("scontrol", "release", one.element().partition("_")[0])
    until(lambda: not cluster.jobs(), "the jobs have ended", 60)
    for name, one in runs.items():
        told = status(one.root)
        wanted = VIEWS[name].told.format(root=one.root)
        words = told["last_words"]
        assert [wanted in line for line in words] == [True], (name, words)
        assert (told["state"], wanted in told["cause"]) == ("stalled", True)
        assert wanted in ask("logs", one.root, "--failed").out
        seen_by_node = other if name == "another" else one.root
        assert VIEWS[name].log in ask("logs", seen_by_node).out
    assert ask("verify", other, "--deep").code == 0, "the other run of the same name was left alone"


def test_a_container_that_does_not_see_the_run_is_told_while_others_work(
    new_run: NewRun, reference: dict[str, str], tmp_path: Path
) -> None:
    """One of two nodes has a Python that looks at another disk; the other makes all pictures.

    The first is told after ten seconds, in which a slow file system could still show the run.
    """
    needs_root()
    python = tmp_path / "python"
    inside = f'mount -t tmpfs none {tmp_path / "run"}; exec {sys.executable} "$@"'
    elsewhere = f'[ $SLURMD_NODENAME = {NODE} ] || exec {sys.executable} "$@"'
    python.write_text(f"#!/bin/sh\n{elsewhere}\nexec unshare --mount sh -c '{inside}' sh \"$@\"\n")
    python.chmod(0o755)
    one = new_run(python=str(python), sbatch=["--exclude=127.0.0.2,127.0.0.3"])
    assert one.submit(pattern__delay_s=1.5).code == 0
    until(lambda: status(one.root)["last_words"], "it is told")
    assert status(one.root)["state"] in ("queued", "running")
    missing = f"there is no {one.root}/.batchgen/plan.json here. Put "
    wanted = f"batchgen: {NODE}: the run directory {one.root} is not shared with it: {missing}"
    assert wanted in ask("status", one.root).out
    until(one.done, "the run is complete")
    assert one.wrong(reference) == []


def test_other_software_on_a_node_is_told_in_its_log(new_run: NewRun, tmp_path: Path) -> None:
    metadata = tmp_path / "site" / "pillow-1.2.3.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: pillow\nVersion: 1.2.3\n")
    one = new_run(nodes=1, setup=[f"export PYTHONPATH={metadata.parent.parent}:$PYTHONPATH"])
    assert one.submit(prompts=["a cat"] * 8).code == 0
    until(one.done, "the run is complete")
    assert "pillow is 1.2.3 here and was " in ask("logs", one.root).out
