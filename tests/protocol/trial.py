"""One death and what follows: the same steps and the same questions for the protocol as it is and for its mutants."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from tests.protocol import power_cut, recount
from tests.protocol.arena import BATCH_SIZE, World
from tests.protocol.disk_watch import Point
from tests.protocol.scene import Scene, go_on, wait_stopped

KILLED = -9
GROUPS_A_DEATH = 2  # P3: one being denoised, one being decoded and written


@dataclass(frozen=True)
class Death:
    """A worker dies at a point, by SIGKILL or with the power: what was not synced is then cut off, or zeros."""

    point: Point
    torn: bool = False
    power: str = "stays"  # or "cut", "zeros"

    def __str__(self) -> str:
        return f"{'torn ' if self.torn else ''}{self.point}, power {self.power}"


def deaths_at(points: Sequence[Point], *powers: str) -> list[Death]:
    """A death after each operation, and one in the middle of each write; `powers` take turns."""
    ways = [
        (point, torn)
        for point in points
        for torn in ([True, False] if point.op == "write" else [False])
    ]
    return [
        Death(point, torn, powers[number % len(powers)])
        for number, (point, torn) in enumerate(ways)
    ]


def wrong_after(world: World, deaths: Sequence[Death], mutant: str = "") -> list[str]:
    """Workers die one after another, a last one finishes, and the power fails when it has: what is wrong then, or was on the way."""
    scene = world.scene()
    wrong: list[str] = []
    for death in deaths:
        wrong += die(scene, death, mutant)
        wrong += recount.wrong_in_view(scene.root, world.reference)
    seen = recount.published(scene.root)
    if code := scene.work(mutant=mutant):
        wrong.append(f"the last worker ended with {code}")
    power_cut.cut(scene.root, scene.events())
    wrong += recount.wrong_in_view(scene.root, world.reference)
    if not (scene.root / "index.json").exists() and (
        code := scene.work(mutant=mutant)
    ):  # its name was all that was lost
        wrong.append(f"the worker after the last power cut ended with {code}")
    wrong += wrong_when_finished(world, scene)
    wrong += [
        f"{name} was published and then changed"
        for name, was in seen.items()
        if recount.published(scene.root).get(name) != was
    ]
    redone = recount.redone_groups(scene.begins(), BATCH_SIZE)
    if redone > GROUPS_A_DEATH * len(deaths):
        wrong.append(f"{redone} groups were begun again after {len(deaths)} deaths")
    if wrong:
        wrong.append(scene.output())
    shutil.rmtree(scene.root.parent)
    return wrong


def wrong_after_a_halt(world: World, point: Point, mutant: str = "") -> list[str]:
    """A worker is halted at a point, another takes it for dead and makes everything, then the first goes on: what is wrong then."""
    scene = world.scene()
    halted = scene.start(
        point=(point.op, point.path, point.ordinal), signal=int(signal.SIGSTOP), mutant=mutant
    )
    stopped = wait_stopped(halted)
    wrong = [] if stopped else ["the worker was not halted"]
    if code := scene.work(lie=1.0, mutant=mutant):
        wrong.append(f"the second owner ended with {code}")
    wrong += wrong_when_finished(world, scene, swept=False)
    seen = recount.published(scene.root)
    if stopped:
        go_on(halted)
    if code := scene.drivers.wait(halted):
        wrong.append(f"the halted owner ended with {code}")
    wrong += wrong_when_finished(world, scene)
    wrong += [
        f"{name} was published and then changed"
        for name, was in seen.items()
        if recount.published(scene.root).get(name) != was
    ]
    if wrong:
        wrong.append(scene.output())
    shutil.rmtree(scene.root.parent)
    return wrong


def die(scene: Scene, death: Death, mutant: str = "") -> list[str]:
    """Let a worker come to its death."""
    point = death.point
    code = scene.work(point=(point.op, point.path, point.ordinal), torn=death.torn, mutant=mutant)
    if death.power != "stays":
        power_cut.cut(scene.root, scene.events(), zeros=death.power == "zeros")
    return [] if code == KILLED else [f"a worker that should have died ended with {code}"]


def wrong_when_finished(world: World, scene: Scene, *, swept: bool = True) -> list[str]:
    """The recount of a finished run, and its tars against the undisturbed run's; `swept`: nothing may be left of shards in the making."""
    wrong = recount.wrong_in_view(scene.root, world.reference)
    wrong += recount.wrong_at_end(scene.root, world.prompts, world.failures, swept=swept)
    missing = world.reference.keys() - recount.tar_hashes(scene.root).keys()
    return wrong + [f"{name} is missing" for name in sorted(missing)]
