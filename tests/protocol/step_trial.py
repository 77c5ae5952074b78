"""Trials of generations: a command dies, halts or meets another, and what went wrong is listed.

The generations as they are and their mutants are put to the same trials.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import threading
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.protocol import power_cut, recount
from tests.protocol.chain import (
    BUCKET,
    Chain,
    Step,
    counted,
    generations,
    last_records,
    looks,
    published,
    told,
)
from tests.protocol.disk_watch import Point
from tests.protocol.run_copy import RunCopy, go_on, wait_stopped
from tests.protocol.trial import KILLED, Death

# What a person does after a death: gives the command again, or resumes and, if nothing comes of
# that, gives the command again.
Way = Literal["again", "resume"]
_RANDOM = re.compile(r"\.[0-9a-f]{12,32}\b")
_OF_A_MOMENT = ("created", "checksum", "parent")


@dataclass
class Trials:
    """Deaths of one step's command before its worker works. What follows from the same is the same.

    A person goes on from each state of the disk once by the same command, and by a plain `resume`
    once for each set of plans, as everything else is none of the run's before there is a plan.
    """

    chain: Chain
    step: Step
    mutant: str = ""
    _seen: set[tuple[str, ...]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wrong_after(self, death: Death) -> list[str]:
        """What is wrong after a death of the process alone, and then of the machine too."""
        copy = self.chain.copy(self.step.before)
        wrong = die(self.step, copy, death, self.mutant)
        wrong += self._go_on(copy, "the process died")
        power_cut.cut(copy.root, copy.events())
        wrong += self._go_on(copy, "the power was cut")
        shutil.rmtree(copy.root.parent)
        return wrong

    def _go_on(self, dead: RunCopy, what: str) -> list[str]:
        wrong = changed(self.step.published_before, dead)
        for way, state in (("again", _state(dead.root)), ("resume", [_plans(dead.root)])):
            if self._is_new(way, *state):
                wrong += wrong_further(
                    self.chain, self.step, self.chain.copy(dead.root), way, self.mutant
                )
        return [f"{what}: {line}" for line in wrong]

    def _is_new(self, *state: str) -> bool:
        with self._lock:
            new = state not in self._seen
            self._seen.add(state)
        return new


def _plans(root: Path) -> str:
    return f"{generations(root)} plans"


def _state(root: Path) -> list[str]:
    """Every file below a folder by its name and content, and every folder.

    What differs from moment to moment is left out: random names, times, and the content of files
    whose names are hidden, which nobody reads.
    """
    found = []
    for path in sorted(root.rglob("*")):
        content = b"folder" if path.is_dir() else path.read_bytes()
        if path.name.startswith("."):
            content = b""
        elif path.name.startswith("plan-") and content:
            plan = json.loads(content)
            content = json.dumps({k: plan[k] for k in plan if k not in _OF_A_MOMENT}).encode()
            content = _RANDOM.sub("", content.decode()).encode()
        name = re.sub(r"(?<=\.parquet)\.\d+$", "", str(path.relative_to(root)))
        found.append(f"{_RANDOM.sub('', name)} {hashlib.sha256(content).hexdigest()}")
    return found


def wrong_after(chain: Chain, step: Step, death: Death, way: Way, mutant: str = "") -> list[str]:
    """What is wrong after the process of a command died and a person went on."""
    copy = chain.copy(step.before)
    wrong = die(step, copy, death, mutant) + changed(step.published_before, copy)
    return wrong + wrong_further(chain, step, copy, way, mutant)


def wrong_further(chain: Chain, step: Step, copy: RunCopy, way: Way, mutant: str = "") -> list[str]:
    """What is wrong after a person went on; the copy goes then."""
    wrong = finish(step, copy, way, mutant) + wrong_at_end(step, copy)
    if wrong:
        wrong.append(copy.output())
    shutil.rmtree(copy.root.parent)
    return wrong


def die(step: Step, copy: RunCopy, death: Death, mutant: str = "") -> list[str]:
    """Let the process of a command come to its death; what is wrong if it does not."""
    code = step.work(copy, point=astuple(death.point), torn=death.torn, mutant=mutant)
    if death.power != "stays":
        power_cut.cut(copy.root, copy.events(), zeros=death.power == "zeros")
    return [] if code == KILLED else [f"a process that should have died ended with {code}"]


def finish(step: Step, copy: RunCopy, way: Way, mutant: str = "") -> list[str]:
    """Go on as a person would; what is wrong with what the person sees."""
    begun = generations(copy.root) > generations(step.before)
    if begun and step.name == "remake" and _is_made(copy):  # again would be another one
        way = "resume"
    wrong: list[str] = []
    before = len(looks(copy))
    if way == "resume":
        if code := step.work(copy, command=(), look=True, mutant=mutant):
            return [f"a plain resume ended with {code}"]
        wrong += wrong_look(looks(copy)[-1], step.status if begun else step.status_before)
    if way == "again" or not begun:
        if code := step.work(copy, look=True, mutant=mutant):
            return [*wrong, f"the same command again ended with {code}"]
        wrong += wrong_look(looks(copy)[-1], step.status)
    first = looks(copy)[before]
    if not begun:
        return wrong + wrong_look(first, step.status_before)
    return wrong + _wrong_in_between(first, step)


def _is_made(copy: RunCopy) -> bool:
    """Whether a run's index is that of its last generation."""
    index = json.loads((copy.root / "index.json").read_bytes())
    return bool(index.get("generation") == generations(copy.root))


def _wrong_in_between(look: dict[str, Any], step: Step) -> list[str]:
    """What is wrong with a status while a generation is being made by nobody."""
    status = look["status"]
    if status["state"] == "complete":
        return wrong_look(look, step.status)
    right = (
        status["state"] == "stalled"
        and "batchgen resume" in status["next"]
        and status["rows"] == step.status["rows"]
        and status["ok"] + status["failed"] + status["pending"] == status["rows"]
        and look["listed"] == _listed(status)
    )
    return [] if right else [f"after the death, people see {look}"]


def wrong_look(look: dict[str, Any], status: dict[str, Any]) -> list[str]:
    """What is wrong with what people see of a run that should have a status."""
    wrong = list(look.get("problems", ()))
    if told([look["status"]]) != told([status]):
        wrong.append(f"status says {told([look['status']])} and not {told([status])}")
    if look["listed"] != _listed(status):
        wrong.append(f"list says {look['listed']}")
    return wrong


def _listed(status: dict[str, Any]) -> list[str]:
    return [str(status[name]) for name in ("state", "ok", "failed", "pending")]


def changed(before: Mapping[str, str], copy: RunCopy) -> list[str]:
    """Files that were published before (chain.published) and are not as they were."""
    now = published(copy.root)
    return [f"{name} changed" for name, sha256 in before.items() if now.get(name) != sha256]


def wrong_at_end(step: Step, copy: RunCopy, before: Mapping[str, str] | None = None) -> list[str]:
    """What is wrong with a run after a step, counted from its files.

    :param before: what was published before it, if that was not the undisturbed run.
    """
    before = step.published_before if before is None else before
    wrong = changed(before, copy) + recount.wrong_names(copy.root)
    if recount.tar_hashes(copy.root) != step.tars:
        wrong.append("the tars are not those of the undisturbed run")
    if counted(copy.root) != step.counted:
        wrong.append(f"what counts is {counted(copy.root)}")
    for key, row in last_records(copy.root).items():
        if row["outcome"] == "ok":
            sample = recount.samples(copy.root / row["tar"]).get(key, {})
            if hashlib.sha256(sample.get("jpg", b"")).hexdigest() != row["sha256"]:
                wrong.append(f"picture {key} is not in {row['tar']}")
    further = generations(step.before) + 1
    if generations(copy.root) != further:
        wrong.append(f"there are {generations(copy.root)} generations, and not {further}")
    left = [path.name for path in copy.root.glob(".batchgen/partial/*/*")]
    return wrong + ([f"{left} are left of attempts"] if left else [])


def wrong_after_a_halt(chain: Chain, step: Step, point: Point, *, mutant: str = "") -> list[str]:
    """What is wrong after two people gave a command at once.

    The first is halted at a point until the second has made everything.
    """
    copy = chain.copy(step.before)
    first = halted(copy, point, mutant=mutant, command=step.command, mended=step.mended)
    wrong = [f"the second ended with {code}"] if (code := step.work(copy, mutant=mutant)) else []
    wrong += wrong_at_end(step, copy)
    go_on(first)
    wrong += wrong_end_of(copy, first, "another command has just begun generation")
    if code := step.work(copy, command=(), look=True):
        wrong.append(f"the last ended with {code}")
    wrong += wrong_look(looks(copy)[-1], step.status) + wrong_at_end(step, copy)
    if wrong:
        wrong.append(copy.output())
    shutil.rmtree(copy.root.parent)
    return wrong


def wrong_after_another_command(chain: Chain, step: Step, mutant: str = "") -> list[str]:
    """What is wrong after somebody who was about to remake a picture met another command.

    The first is halted before the link of its plan, until the second has made everything.
    """
    copy = chain.copy(step.before)
    point = Point("create", f".batchgen/.plan-{generations(step.before) + 1:04d}.json.tmp", 0)
    first = halted(copy, point, mutant=mutant, command=("remake", "0"), mended=step.mended)
    wrong = [f"the second ended with {code}"] if (code := step.work(copy, mutant=mutant)) else []
    go_on(first)
    if copy.drivers.wait(first) == 0:
        wrong.append("the command to remake made nothing and was not refused")
    wrong += wrong_at_end(step, copy)
    shutil.rmtree(copy.root.parent)
    return wrong


def wrong_after_a_late_worker(chain: Chain, point: Point, mutant: str = "") -> list[str]:
    """What is wrong after a worker of a trial was halted until another had made the rest."""
    step, copy = chain.steps["rest"], chain.copy(chain.planned)
    late = halted(copy, point, mutant=mutant)
    wrong = [] if step.work(copy, mutant=mutant) == 0 else ["the rest was not made"]
    go_on(late)
    wrong += wrong_end_of(copy, late, "")
    before = len(looks(copy))
    if code := step.work(copy, command=(), look=True, mutant=mutant):
        wrong.append(f"a resume ended with {code}")
    first, last = looks(copy)[before:]
    if first["status"]["state"] not in ("complete", "stalled"):
        wrong.append(f"after the late worker the run is {first['status']['state']}")
    wrong += wrong_look(last, step.status) + wrong_at_end(step, copy, {})
    if wrong:
        wrong.append(copy.output())
    shutil.rmtree(copy.root.parent)
    return wrong


def halted(copy: RunCopy, point: Point, **settings: Any) -> int:
    """A process that is halted at a point; its process id."""
    settings = {"bucket": BUCKET, "signal": int(signal.SIGSTOP)} | settings
    pid = copy.start(point=astuple(point), **settings)
    assert wait_stopped(pid), f"{point} was not reached\n{copy.output()}"
    return pid


def wrong_end_of(copy: RunCopy, pid: int, refusal: str) -> list[str]:
    """What is wrong with the end of a process that may be refused, with these words."""
    code = copy.drivers.wait(pid)
    (reason,) = [e["reason"] for e in copy.events() if (e["op"], e["pid"]) == ("left", pid)]
    right = code == 0 or (reason.startswith("refused") and refusal in reason)
    return [] if right else [f"the halted process ended with {code}: {reason}"]
