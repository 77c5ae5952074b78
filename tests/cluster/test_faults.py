"""What happens to nodes, jobs, daemons and processes costs time and the groups in flight, and nothing else."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.cluster.ground import Ground, Scene, kill, until, with_job
from tests.protocol import recount

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Fault:
    """Something that happens to element 0 of a run."""

    strike: Callable[[Scene], object]
    comes_back: bool = True  # the same workers, in a new allocation
    orphans: bool = (
        False  # its workers may work on beside their successors, and lose every shard they take
    )
    most_lost: int = 4  # groups: two for each of the element's two workers


def requeued(scene: Scene) -> None:
    scene.ground.run("scontrol", "requeue", scene.element())


def node_down(scene: Scene) -> None:
    scene.ground.run(
        "scontrol", "update", f"nodename={scene.owner()['host']}", "state=down", "reason=test"
    )


def rank_killed(scene: Scene) -> None:
    kill(scene.owner()["pid"])


def preempted(scene: Scene) -> None:
    scene.ground.run(
        "sbatch",
        "-p",
        "hi",
        "-w",
        scene.owner()["host"],
        "--exclusive",
        "-o",
        "/dev/null",
        "--wrap",
        "sleep 2",
    )


def batch_shell_killed(scene: Scene) -> None:
    kill(*with_job(scene.ground.processes("slurm_script"), scene.owner()["job"]))


def batch_daemon_killed(scene: Scene) -> None:
    kill(*scene.ground.processes(f"slurmstepd: [{scene.owner()['job']}.batch]"))


def step_daemon_killed(scene: Scene) -> None:
    kill(*scene.ground.processes(f"slurmstepd: [{scene.owner()['job']}.0]"))


def node_daemon_killed(scene: Scene) -> None:
    """SLURM gives the node up while the workers on it work on, beside their successors elsewhere."""
    name = scene.owner()["host"]
    kill(*scene.ground.processes(f"slurmd -D -f {scene.ground.cluster.conf} -N {name}"))
    node_down(scene)
    scene.ground.start_daemon("slurmd", "-D", "-f", str(scene.ground.cluster.conf), "-N", name)


def cancelled(scene: Scene) -> None:
    scene.ground.run("scancel", scene.element())


def controller_restarted(scene: Scene) -> None:
    command = ("slurmctld", "-D", "-f", str(scene.ground.cluster.conf))
    kill(*scene.ground.processes(" ".join(command)))
    scene.ground.start_daemon(*command)


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
NAMES = list(
    FAULTS
)  # two together; slurmctld beside none that it must remember, for it saves its state only now and then


@pytest.mark.parametrize(
    "names", [NAMES[at : at + 2] for at in range(0, len(NAMES), 2)], ids=" + ".join
)
def test_after_a_fault_every_picture_is_made_once_and_as_always(
    names: list[str],
    scene: Callable[..., Scene],
    calm: Ground,
    reference: dict[str, str],
    tell_recovery: Callable[..., None],
) -> None:
    """Two runs side by side, each on two nodes with a fault of its own."""
    scenes = [scene(f"run{number}") for number in range(2)]
    for one in scenes:
        assert one.submit(pattern__delay_s=1.5).code == 0
    for one in scenes:
        until(
            lambda one=one: one.at_work(0) and one.at_work(1),
            "both workers of the first node are at work",
        )
    struck = []
    for name, one in zip(names, scenes, strict=True):
        struck.append(time.time())
        FAULTS[name].strike(one)
    for name, one, at in zip(names, scenes, struck, strict=True):
        if FAULTS[name].comes_back:
            until(lambda one=one: len(one.members(0)) > 1, f"after {name}, the workers are back")
        until(one.done, f"after {name}, the run is complete")
        lost = one.lost_groups()
        steals = one.steals()
        back = (
            f"others take over after {steals[0] - at:.0f} s" if steals else "nothing to take over"
        )
        if FAULTS[name].comes_back:
            back = f"back after {one.members(0)[1].stat().st_mtime - at:.0f} s"
        tell_recovery(name, back, f"{lost}")
        assert one.wrong(reference) == []
        assert lost <= (2 * len(steals) if FAULTS[name].orphans else FAULTS[name].most_lost)


def test_pictures_that_kill_or_hang_their_workers_are_found_out(
    scene: Callable[..., Scene], tell_recovery: Callable[..., None]
) -> None:
    """Deaths that the batch script saw count against a picture; the watchdog ends who hangs."""
    prompts = ["a KILL" if key == 3 else "a HANG" if key == 9 else "a cat" for key in range(16)]
    one = scene(gpus_per_node=0, workers_per_node=1)
    began = time.time()
    assert one.submit(prompts=prompts, run__group_timeout_s=3).code == 0
    until(one.done, "the run is complete", 240)
    assert recount.wrong_at_end(one.root, prompts, frozenset({3, 9})) == []
    restarts = sum(len(one.members(worker)) - 1 for worker in range(2))
    tell_recovery(
        "two pictures that kill", f"{restarts} restarts in {time.time() - began:.0f} s", ""
    )
