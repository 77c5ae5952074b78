"""A fault of a node, job, daemon or process costs time and the groups in flight, nothing else."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.cluster.cluster import ClusterRun, NewRun, kill, until, with_job
from tests.protocol import recount

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Fault:
    """Something that happens to element 0 of a run."""

    strike: Callable[[ClusterRun], object]
    # Whether the same workers come back in a new allocation.
    comes_back: bool = True
    # Whether its workers may work on beside their successors. Then they lose every shard they take.
    orphans: bool = False
    # Groups that may be made again: two for each of the element's two workers.
    most_lost: int = 4


def requeued(run: ClusterRun) -> None:
    run.cluster.run("scontrol", "requeue", run.element())


def node_down(run: ClusterRun) -> None:
    node = f"nodename={run.owner()['host']}"
    run.cluster.run("scontrol", "update", node, "state=down", "reason=test")


def rank_killed(run: ClusterRun) -> None:
    kill(run.owner()["pid"])


def preempted(run: ClusterRun) -> None:
    options = ["--partition=hi", f"--nodelist={run.owner()['host']}", "--exclusive"]
    run.cluster.run("sbatch", *options, "--output=/dev/null", "--wrap=sleep 2")


def batch_shell_killed(run: ClusterRun) -> None:
    kill(*with_job(run.cluster.processes("slurm_script"), run.owner()["job"]))


def batch_daemon_killed(run: ClusterRun) -> None:
    kill(*run.cluster.processes(f"slurmstepd: [{run.owner()['job']}.batch]"))


def step_daemon_killed(run: ClusterRun) -> None:
    kill(*run.cluster.processes(f"slurmstepd: [{run.owner()['job']}.0]"))


def node_daemon_killed(run: ClusterRun) -> None:
    """SLURM gives the node up while its workers work on, beside their successors elsewhere."""
    name = run.owner()["host"]
    kill(*run.cluster.processes(f"slurmd -D -f {run.cluster.testcluster.conf} -N {name}"))
    node_down(run)
    run.cluster.start_daemon("slurmd", "-D", "-f", str(run.cluster.testcluster.conf), "-N", name)


def cancelled(run: ClusterRun) -> None:
    run.cluster.run("scancel", run.element())


def controller_restarted(run: ClusterRun) -> None:
    command = ("slurmctld", "-D", "-f", str(run.cluster.testcluster.conf))
    kill(*run.cluster.processes(" ".join(command)))
    run.cluster.start_daemon(*command)


FAULTS = {
    "scontrol requeue": Fault(requeued),
    "node down": Fault(node_down),
    "kill -9 of a rank": Fault(rank_killed),
    "preemption": Fault(preempted),
    "kill -9 of the batch shell": Fault(batch_shell_killed, comes_back=False),
    "scancel of a node": Fault(cancelled, comes_back=False),
    "kill -9 of slurmd, and back": Fault(node_daemon_killed, orphans=True),
    "kill -9 of the step's slurmstepd": Fault(step_daemon_killed, comes_back=False, orphans=True),
    "kill -9 of the batch's slurmstepd": Fault(batch_daemon_killed, comes_back=False, orphans=True),
    "kill -9 of slurmctld, and back": Fault(controller_restarted, comes_back=False, most_lost=0),
}
# Two at a time. slurmctld is restarted beside a fault that it need not remember, because it saves
# its state only now and then.
NAMES = list(FAULTS)
PAIRS = [NAMES[at : at + 2] for at in range(0, len(NAMES), 2)]


@pytest.mark.parametrize("names", PAIRS, ids=" + ".join)
def test_after_a_fault_every_picture_is_made_once_and_as_always(
    names: list[str], new_run: NewRun, reference: dict[str, str], tell_recovery: Callable[..., None]
) -> None:
    """Two runs side by side, each on two nodes with a fault of its own."""
    runs = [new_run(f"run{number}") for number in range(2)]
    for one in runs:
        assert one.submit(pattern__delay_s=1.5).code == 0
    for one in runs:
        until(lambda one=one: one.at_work(0) and one.at_work(1), "the first node is at work")
    struck = []
    for name, one in zip(names, runs, strict=True):
        struck.append(time.time())
        FAULTS[name].strike(one)
    for name, one, at in zip(names, runs, struck, strict=True):
        if FAULTS[name].comes_back:
            until(lambda one=one: len(one.members(0)) > 1, f"after {name}, the workers are back")
        until(one.done, f"after {name}, the run is complete")
        lost, steals = one.lost_groups(), one.steals()
        back = "nothing to take over"
        if steals:
            back = f"others take over after {steals[0] - at:.0f} s"
        if FAULTS[name].comes_back:
            back = f"back after {one.members(0)[1].stat().st_mtime - at:.0f} s"
        tell_recovery(name, back, f"{lost}")
        assert one.wrong(reference) == []
        assert lost <= (2 * len(steals) if FAULTS[name].orphans else FAULTS[name].most_lost)


def test_pictures_that_kill_or_hang_their_workers_are_found_out(
    new_run: NewRun, tell_recovery: Callable[..., None]
) -> None:
    """Deaths that the batch script notes count against a picture. The watchdog ends a hang."""
    prompts = ["a KILL" if key == 3 else "a HANG" if key == 9 else "a cat" for key in range(16)]
    one = new_run(gpus_per_node=0, workers_per_node=1)
    began = time.time()
    assert one.submit(prompts=prompts, run__group_timeout_s=3).code == 0
    until(one.done, "the run is complete", 240)
    assert recount.wrong_at_end(one.root, prompts, frozenset({3, 9})) == []
    restarts = sum(len(one.members(worker)) - 1 for worker in range(2))
    cost = f"{restarts} restarts in {time.time() - began:.0f} s"
    tell_recovery("two pictures that kill", cost, "")
