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
from dataclasses import astuple
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


class SeenStates:
    """What was on the disk after earlier deaths: what follows from the same is the same."""

    def __init__(self) -> None:
        self._seen: set[tuple[str, ...]] = set()
        self._lock = threading.Lock()

    def is_new(self, root: Path, *about: str) -> bool:
        """Whether no run that is told apart by `about` has been so. Random names are not compared.

        Only for runs on which nobody has worked since: claims and journals are of a moment.
        """
        key = (*about, *sorted(_state(root)))
        with self._lock:
            new = key not in self._seen
            self._seen.add(key)
        return new


def _state(root: Path) -> list[str]:
    """Every file below a folder by its name and content, and every folder."""
    found = []
    for path in root.rglob("*"):
        content = path.read_bytes() if path.is_file() else b"folder"
        if path.name.startswith("plan-"):
            plan = json.loads(content)
            content = json.dumps({k: plan[k] for k in plan if k not in _OF_A_MOMENT}).encode()
            content = _RANDOM.sub("", content.decode()).encode()
        elif path.name.startswith(".plan-"):
            content = b"%d" % bool(content)  # its time is in it; nobody reads it
        digest = hashlib.sha256(content).hexdigest()
        name = re.sub(r"(?<=\.parquet)\.\d+$", "", str(path.relative_to(root)))
        found.append(f"{_RANDOM.sub('', name)} {digest}")
    return found


def wrong_after(
    chain: Chain,
    step: Step,
    death: Death,
    way: Way,
    *,
    mutant: str = "",
    seen: SeenStates | None = None,
) -> list[str]:
    """What is wrong after a command died and a person went on.

    :param seen: the trial ends with the death if it leaves what another one has left.
    """
    copy = chain.copy(step.before)
    wrong = die(step, copy, death, mutant)
    wrong += changed(step, copy)
    if wrong or seen is None or seen.is_new(copy.root, step.name, way):
        wrong += finish(step, copy, way, mutant)
        wrong += wrong_at_end(step, copy)
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


def changed(step: Step, copy: RunCopy) -> list[str]:
    """Files that were published before a step and are not as they were."""
    now = published(copy.root)
    return [
        f"{name} changed" for name, sha in step.published_before.items() if now.get(name) != sha
    ]


def wrong_at_end(step: Step, copy: RunCopy) -> list[str]:
    """What is wrong with a run after a step, counted from its files."""
    wrong = changed(step, copy) + recount.wrong_names(copy.root)
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
