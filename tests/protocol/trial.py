"""Trials: a worker dies or halts at a point, others finish the run, and what went wrong is listed.

The protocol as it is and its mutants are put to the same trials.
"""

from __future__ import annotations

import itertools
import shutil
import signal
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from tests.protocol import power_cut, recount
from tests.protocol.disk_watch import Point
from tests.protocol.planned_run import BATCH_SIZE, PlannedRun
from tests.protocol.run_copy import RunCopy, go_on, wait_stopped

KILLED = -9
# P3: one group is being denoised, one is being decoded and written.
GROUPS_A_DEATH = 2


@dataclass(frozen=True)
class Death:
    """A worker dies at a point, by SIGKILL or with the power.

    `power` is "stays"; or "cut", where what was not synced is cut off; or "zeros", where it reads
    as zeros.
    """

    point: Point
    torn: bool = False
    power: str = "stays"

    def __str__(self) -> str:
        return f"{'torn ' if self.torn else ''}{self.point}, power {self.power}"


def deaths_at(points: Sequence[Point], *powers: str) -> list[Death]:
    """A death after each operation, and one in the middle of each write; `powers` take turns."""
    ways: list[tuple[Point, bool]] = []
    for point in points:
        ways += [(point, True), (point, False)] if point.op == "write" else [(point, False)]
    turns = itertools.cycle(powers)
    return [Death(point, torn, power) for (point, torn), power in zip(ways, turns, strict=False)]


def wrong_after(planned_run: PlannedRun, deaths: Sequence[Death], mutant: str = "") -> list[str]:
    """What is wrong after workers died one after another and a last one finished the run.

    When the run is finished the power fails once more.
    """
    copy = planned_run.copy()
    wrong: list[str] = []
    for death in deaths:
        wrong += die(copy, death, mutant)
        wrong += recount.wrong_in_view(copy.root, planned_run.reference)
    seen = recount.published(copy.root)
    if code := copy.work(mutant=mutant):
        wrong.append(f"the last worker ended with {code}")
    power_cut.cut(copy.root, copy.events())
    wrong += recount.wrong_in_view(copy.root, planned_run.reference)
    index = copy.root / "index.json"  # the only name that this power cut may take
    if not index.exists() and (code := copy.work(mutant=mutant)):
        wrong.append(f"the worker after the last power cut ended with {code}")
    wrong += wrong_when_finished(planned_run, copy)
    wrong += _changed(copy, seen)
    redone = recount.redone_groups(copy.begins(), BATCH_SIZE)
    if redone > GROUPS_A_DEATH * len(deaths):
        wrong.append(f"{redone} groups were begun again after {len(deaths)} deaths")
    if wrong:
        wrong.append(copy.output())
    shutil.rmtree(copy.root.parent)
    return wrong


def wrong_after_a_halt(planned_run: PlannedRun, point: Point, mutant: str = "") -> list[str]:
    """What is wrong after a worker was halted at a point and went on later.

    Meanwhile another worker takes it for dead and makes everything.
    """
    copy = planned_run.copy()
    halted = copy.start(point=astuple(point), signal=int(signal.SIGSTOP), mutant=mutant)
    stopped = wait_stopped(halted)
    wrong = [] if stopped else ["the worker was not halted"]
    if code := copy.work(misjudge=1.0, mutant=mutant):
        wrong.append(f"the second owner ended with {code}")
    wrong += wrong_when_finished(planned_run, copy, swept=False)
    seen = recount.published(copy.root)
    if stopped:
        go_on(halted)
    if code := copy.drivers.wait(halted):
        wrong.append(f"the halted owner ended with {code}")
    wrong += wrong_when_finished(planned_run, copy)
    wrong += _changed(copy, seen)
    if wrong:
        wrong.append(copy.output())
    shutil.rmtree(copy.root.parent)
    return wrong


def _changed(copy: RunCopy, seen: dict[str, tuple[int, str]]) -> list[str]:
    now = recount.published(copy.root)
    return [
        f"{name} was published and then changed" for name in seen if now.get(name) != seen[name]
    ]


def die(copy: RunCopy, death: Death, mutant: str = "") -> list[str]:
    """Let a worker come to its death; what is wrong if it does not."""
    code = copy.work(point=astuple(death.point), torn=death.torn, mutant=mutant)
    if death.power != "stays":
        power_cut.cut(copy.root, copy.events(), zeros=death.power == "zeros")
    return [] if code == KILLED else [f"a worker that should have died ended with {code}"]


def wrong_when_finished(planned_run: PlannedRun, copy: RunCopy, *, swept: bool = True) -> list[str]:
    """What is wrong with a finished run, compared with its plan and with the undisturbed run.

    :param swept: no files of attempts may be left.
    """
    reference = planned_run.reference
    wrong = recount.wrong_in_view(copy.root, reference)
    wrong += recount.wrong_at_end(copy.root, planned_run.prompts, planned_run.failures, swept=swept)
    wrong += recount.wrong_audits(copy.root, planned_run.audits)
    missing = reference.keys() - recount.tar_hashes(copy.root).keys()
    return wrong + [f"{name} is missing" for name in sorted(missing)]
